"""The demo's result page: one HTML file with everything inside it. Made from values; it runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from jobs.pictures import small


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A thumbnail; right is None where there is no right or wrong."""

    key: str
    data: str
    score: float | None = None
    right: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A query and its best results."""

    query: Picture
    hits: Sequence[Picture]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command that was run, and what came of it in a few words."""

    command: str
    outcome: str


@dataclass(frozen=True, kw_only=True)
class DemoPage:
    """Everything that the page says."""

    images: int
    scenes: int
    photographs: int
    views: int
    snapshot: int
    descriptor: str
    honest: str
    mean_average_precision: float
    precision_at_1: float
    chance: float
    colours: float
    approximate: Sequence[tuple[str, float]]
    seconds: float
    steps: Sequence[Step]
    rows: Sequence[Row]


def thumbnail(data: bytes, key: str, score: float | None = None, right: bool | None = None) -> Picture:
    """Make a picture of encoded image bytes."""
    return Picture(key=key, data=small(data), score=score, right=right)


def write_page(path: Path, page: DemoPage) -> None:
    """Write the page; every name in it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(environment.get_template("demo.html").render(page=page), encoding="utf-8")
