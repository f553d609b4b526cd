"""Options and arguments that several commands share."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Root = Annotated[str, typer.Argument(help="Where everything is published: a local folder or s3://bucket/prefix.")]


class RunnerKind(enum.StrEnum):
    """Names of the runners."""

    inline = "inline"
    ray = "ray"


class RetrainKind(enum.StrEnum):
    """When trained indexes are trained anew."""

    auto = "auto"
    never = "never"
    always = "always"
