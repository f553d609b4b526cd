"""The command line: which module has a command, and how errors end. The commands are in cli_*.py, the work elsewhere.

Only the module of the command that is asked for is imported: `submit` and `status` need no torch.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from jobs.cli_options import Command
from jobs.signals import ending_in_order
from pipeline.core.errors import SightlineError
from pipeline.core.limited_pool import busy_threads

MODULES = {
    "jobs.cli_index": ("index", "plan"),
    "jobs.cli_search": ("status", "query", "export"),
    "jobs.cli_evaluate": ("evaluate", "sweep"),
    "jobs.cli_report": ("report", "duplicates"),
    "jobs.cli_serve": ("serve",),
    "jobs.cli_upkeep": ("verify", "delete", "restore", "rollback", "tag", "expire", "compact", "convert"),
    "jobs.cli_cluster": ("submit",),
}
"""Which commands a module has, in the order of the help."""

INTERRUPTED = 130
OPTIONAL_VALUES = ("--retry-rejected", "--retry-rejects")
"""Options that may stand alone, for which typer has no word: then their value is empty. One follows a "=" only."""

# typer carries its own click and shows these classes only as bases of what it exports.
USAGE_ERROR: type[Any] = typer.BadParameter.__mro__[1]
CLICK_ERROR: type[Any] = typer.BadParameter.__mro__[2]


def command_line(arguments: Sequence[str]) -> typer.Typer:
    """Return the command line, with the commands that may be meant."""
    app = typer.Typer(
        name="sightline",
        help="Index image collections for instance retrieval: extract, whiten, index, publish, search.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        rich_markup_mode=None,
    )
    # Without it a single command would take the place of the program.
    app.callback()(lambda: None)
    asked = arguments[0] if arguments else ""
    modules = [module for module, names in MODULES.items() if asked in names] or list(MODULES)
    for module in modules:
        commands: tuple[Command, ...] = importlib.import_module(module).COMMANDS
        for function, settings in commands:
            app.command(**settings)(function)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code. Errors are one line on stderr, and JSON where JSON was asked for."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    arguments = [f"{argument}=" if argument in OPTIONAL_VALUES else argument for argument in arguments]
    try:
        with ending_in_order():
            code = command_line(arguments)(args=list(arguments), standalone_mode=False)
    except SightlineError as error:
        return _failed(str(error), error.exit_code, arguments)
    except USAGE_ERROR as error:
        return _failed(error.format_message(), 2, arguments)
    except typer.Exit as error:
        return int(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except CLICK_ERROR as error:
        return _failed(error.format_message(), 2, arguments)
    if code == INTERRUPTED:
        # typer turns a KeyboardInterrupt into this code, and says nothing.
        return _failed("interrupted; run the same command again to go on, finished shards are kept", code, arguments)
    return int(code or 0)


def _failed(line: str, code: int, arguments: Sequence[str]) -> int:
    print(f"sightline: {line}", file=sys.stderr)
    if "--json" in arguments:
        print(json.dumps({"error": line, "exit": code}))
    return code


def main() -> None:
    """Entry point of the console script."""
    leave(run(sys.argv[1:]))


def leave(code: int) -> NoReturn:
    """End this process, also where a thread hangs in a call that cannot be ended, such as a read of a dead mount."""
    if busy_threads():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
