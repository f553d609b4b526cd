"""What goes over the wire, as pydantic models: they check requests, and describe themselves in the OpenAPI document."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, FiniteFloat

MOST_VECTORS = 64
MOST_DIMENSIONS = 65_536
BOX = r"^\s*-?\d+(\.\d+)?(\s*,\s*-?\d+(\.\d+)?){3}\s*$"


class Ask(BaseModel):
    """How to search. index: kind, "" for the best of the snapshot. rerank: candidates scored exactly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(default=10, ge=1, le=1000, description="results")
    index: str = Field(default="", max_length=40, description="index kind; the snapshot's best by default")
    rerank: int | None = Field(
        default=None, ge=0, le=100_000, description="candidates scored exactly; max(100, 10 k) by default, 0 for none"
    )
    effort: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="nprobe, ef_search or checks of the index; the recipe's by default",
    )
    verify: int = Field(default=0, ge=0, le=1000, description="candidates whose geometry is compared with the query's")
    locate: bool = Field(default=False, description="say where in each result the query is")
    where: str = Field(
        default="", max_length=2000, description="filter on metadata, as: license = 'cc0' and year > 2015"
    )


class SimilarAsk(Ask):
    """How to search with an indexed image, or with a box of it."""

    box: str | None = Field(
        default=None, pattern=BOX, max_length=200, description="X,Y,W,H in pixels of the original image"
    )


class ImageAsk(Ask):
    """How to search with an uploaded image, or with a box of it: the fields of the form beside `image`."""

    box: str | None = Field(default=None, pattern=BOX, max_length=200, description="X,Y,W,H in pixels of the image")


class VectorsAsk(BaseModel):
    """Queries that are vectors already. recipe: the descriptor_id they were made by, where it is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # The first fault is enough: a list of all of them can be a thousand times as large as what was sent.
    vectors: Annotated[
        list[Annotated[list[FiniteFloat], Field(min_length=1, max_length=MOST_DIMENSIONS), FailFast()]], FailFast()
    ] = Field(min_length=1, max_length=MOST_VECTORS, description="each is scaled to unit length")
    recipe: str = Field(default="", max_length=80, description="refused unless it is the snapshot's")
    ask: Ask = Ask()


class HitModel(BaseModel):
    """One result. box: x, y, width, height of the object, in pixels of the original image."""

    key: str
    score: float
    uri: str
    width: int
    height: int
    box: tuple[float, float, float, float] | None = None
    inliers: int | None = None
    metadata: dict[str, Any] | None = None


class QueryModel(BaseModel):
    """What was searched with: an indexed image, or an uploaded one; its size in pixels, and the box of it."""

    key: str | None = None
    width: int
    height: int
    box: tuple[float, float, float, float] | None = None


class Answer(BaseModel):
    """Results, all of one snapshot. seconds: by phase."""

    snapshot: int
    index: str
    query: QueryModel | None = None
    hits: list[HitModel]
    seconds: dict[str, float]


class Answers(BaseModel):
    """Results of several queries, all of one snapshot."""

    snapshot: int
    index: str
    results: list[list[HitModel]]
    seconds: dict[str, float]


class IndexModel(BaseModel):
    """An index kind that can be asked. effort: what its `effort` is called, "" for none, and its usual value."""

    kind: str
    exact: bool
    effort: str
    usual: int | None


class About(BaseModel):
    """The snapshot that answers now, and what can be asked of it. metadata: columns that a filter may name."""

    snapshot: int
    created_at: str
    images: int
    dimensions: int
    descriptor: str
    recipe: str
    indexes: list[IndexModel]
    can_query_images: bool
    can_verify: bool
    can_locate: bool
    metadata: dict[str, str]
    limits: dict[str, int]


class State(BaseModel):
    """Health in a word."""

    status: str


class Problem(BaseModel):
    """Why a request was not answered, in one line."""

    error: str


def parse_box(text: str | None) -> tuple[float, float, float, float] | None:
    """Return the box that a text of four numbers names; ValueError for any other text."""
    if text is None or not text.strip():
        return None
    if not re.fullmatch(BOX, text) or len(text) > 200:
        raise ValueError(f"box {text[:60]!r} is not four numbers; write X,Y,W,H in pixels of the image")
    x, y, width, height = (float(part) for part in text.split(","))
    return x, y, width, height
