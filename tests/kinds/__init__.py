"""Kinds that exist in tests only; `tests.life.toy_kinds` makes them known."""
