"""Options and arguments that several commands share."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Annotated, Any

import typer

from pipeline.core.errors import UserError

Command = tuple[Callable[..., int], dict[str, Any]]
"""A command, and what typer is to know of it beside its signature."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Root = Annotated[str, typer.Argument(help="Where everything is published: a local folder or s3://bucket/prefix.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: the GPU where there is one.")]


def floats(text: str | None, option: str) -> tuple[float, ...] | None:
    """Return the numbers of an option's text; None where it was not given."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{option} {text}", "is not a list of numbers", "write for example 1,0.7071,0.5") from None


class RunnerKind(enum.StrEnum):
    """Names of the runners."""

    inline = "inline"
    ray = "ray"


class RetrainKind(enum.StrEnum):
    """When trained indexes are trained anew."""

    auto = "auto"
    never = "never"
    always = "always"
