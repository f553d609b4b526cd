"""The commands for clusters: submit. What runs where is in submit.py and pipeline/run/ray."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from jobs import output
from jobs import submit as submit_job
from jobs.cli_options import Command, Json
from pipeline.core.errors import UserError

Words = Annotated[list[str] | None, typer.Argument(help="After --: the command to run there, as index SOURCE ROOT.")]


def submit(
    command: Words = None,
    address: Annotated[str, typer.Option(help="The cluster's job server, as http://head:8265.")] = "",
    wait: Annotated[bool, typer.Option(help="Follow the job, and end with its exit code.")] = False,
    submission_id: Annotated[str, typer.Option("--id", help="Id of the job. [default: made of the command]")] = "",
    packed: Annotated[
        bool, typer.Option("--packed/--installed", help="Send this code along, or use what the image has.")
    ] = True,
    status: Annotated[str, typer.Option(help="Instead of submitting: the state of this job.")] = "",
    logs: Annotated[str, typer.Option(help="Instead of submitting: what this job has written.")] = "",
    stop: Annotated[str, typer.Option(help="Instead of submitting: stop this job.")] = "",
    as_json: Json = False,
) -> int:
    """Run a command on a cluster as a Ray job.

    The same command submitted twice is one job; after its end it is the next attempt, which goes on with what is
    missing. Credentials stay where they are: the cluster's machines use their own.
    """
    if not address:
        raise UserError("--address", "is not given", "name the cluster's job server, as http://head:8265")
    for what, name in (("status", status), ("logs", logs), ("stop", stop)):
        if name:
            data = submit_job.ask(address, name, what)
            lines = [data.pop("logs")] if what == "logs" and not as_json else [_line(data)]
            output.emit(data, as_json=as_json, lines=lines)
            return 0
    options = submit_job.SubmitOptions(
        address=address, command=command or [], submission_id=submission_id, packed=packed, wait=wait
    )
    data = submit_job.submit(options, lambda line: print(line, file=sys.stderr))
    output.emit(data, as_json=as_json, lines=[_line(data)])
    if not wait or data["status"] == "SUCCEEDED":
        return 0
    return int(data["exit"] or 1)


def _line(data: dict[str, object]) -> str:
    ended = f", exit code {data['exit']}" if data.get("exit") is not None else ""
    message = f": {' '.join(str(data['message']).split())[:200]}" if data.get("message") else ""
    return f"job {data['job']}: {str(data['status']).lower()}{ended}{message}"


COMMANDS: tuple[Command, ...] = ((submit, {}),)
