"""`sightline submit`: run a command on a cluster as a Ray job, from anywhere; watch it, ask for it, stop it.

The same command has the same submission id, so submitting twice follows the job that runs already; once it has ended,
submitting again starts the next attempt, which goes on with what is missing.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pipeline
from jobs._main import run_module
from pipeline.core.errors import UserError
from pipeline.core.names import parse_location

REFERENCES = ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
"""Variables that name credentials and servers without being secret: they go with a job if they are set here."""
COMMANDS = ("index", "compact", "expire", "verify", "evaluate", "sweep", "duplicates", "report", "export")


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """command: a sightline command line without the program's name. packed: send this code along."""

    address: str
    command: Sequence[str]
    submission_id: str = ""
    packed: bool = True
    wait: bool = False
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))


def submit(options: SubmitOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Submit, and with `wait` follow to the end; "exit" is the job's own exit code then."""
    _checked(options.command)
    module = importlib.import_module("pipeline.run.ray.jobs")
    jobs = module.Jobs(options.address)
    name = _free_id(jobs, options.submission_id or submission_id(options.command))
    state = jobs.submit(
        module.Submission(
            id=name,
            entrypoint=module.entrypoint(["-m", "jobs.cli", *options.command]),
            packages=_packages() if options.packed else (),
            environment=references(options.environment),
        )
    )
    say(f"job {name}: {state.status.lower()}; see `sightline submit --address {options.address} --logs {name}`")
    if not options.wait:
        return {"job": name, "status": state.status, "exit": None}
    written = 0
    for text in jobs.follow(name):
        sys.stderr.write(text)
        written += len(text)
    ended = jobs.wait(name)
    # The stream may end before the last lines have come through it.
    sys.stderr.write(jobs.logs(name)[written:])
    return told(ended)


def ask(address: str, name: str, what: str) -> dict[str, Any]:
    """Return a job's status, or its logs too, or stop it."""
    jobs = importlib.import_module("pipeline.run.ray.jobs").Jobs(address)
    if what == "stop":
        return told(jobs.stop(name))
    state = told(jobs.require(name))
    return {**state, "logs": jobs.logs(name)} if what == "logs" else state


def told(state: Any) -> dict[str, Any]:
    """Return a job's state as plain values."""
    return {"job": state.id, "status": state.status, "exit": state.exit_code, "message": state.message}


def submission_id(command: Sequence[str]) -> str:
    """Return the id of a command: equal commands have equal ids."""
    return f"sightline-{hashlib.sha256(shlex.join(command).encode()).hexdigest()[:12]}"


def references(environment: dict[str, str]) -> dict[str, str]:
    """Return the variables that go with a job; credentials themselves never do."""
    return {name: environment[name] for name in REFERENCES if environment.get(name)}


def _free_id(jobs: Any, name: str) -> str:
    """Return the id of the attempt to submit: the one that runs, or else the first that was never used."""
    attempt, candidate = 1, name
    while (state := jobs.find(candidate)) is not None and state.done:
        attempt += 1
        candidate = f"{name}-{attempt}"
    return candidate


def _checked(command: Sequence[str]) -> None:
    """Refuse what would fail on the cluster only after a while."""
    if not command or command[0] not in COMMANDS:
        raise UserError(
            "submit", "names no command that can be submitted", f"write -- and one of {', '.join(COMMANDS)}"
        )
    for argument in command[1:]:
        if argument.startswith("s3://"):
            parse_location(argument)


def _packages() -> tuple[Path, ...]:
    return Path(pipeline.__file__).parent, Path(__file__).parent


if __name__ == "__main__":
    run_module("submit")
