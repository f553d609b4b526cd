"""`python -m jobs.NAME` is `sightline NAME`: the one place that hands a module's arguments to the command line."""

from __future__ import annotations

import importlib
import sys


def run_module(command: str) -> None:
    """Run a command with this process's arguments and exit with its code."""
    cli = importlib.import_module("jobs.cli")
    cli.leave(cli.run([command, *sys.argv[1:]]))
