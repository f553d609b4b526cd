"""Runners: how tasks are carried out, in this process or on a Ray cluster. Only ray.py imports ray."""
