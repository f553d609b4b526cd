"""What scripts read: one JSON object, and nothing that JSON does not have."""

from __future__ import annotations

import json

import pytest

from jobs.output import emit, finite


def test_numbers_that_are_not_finite_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"a": float("nan"), "b": [1.5, float("inf"), {"c": (float("-inf"), "nan")}], "d": None, "e": True}
    emit(data, as_json=True)
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": None, "b": [1.5, None, {"c": [None, "nan"]}], "d": None, "e": True}
    assert "NaN" not in text
    assert finite({"x": 0.5}) == {"x": 0.5}
