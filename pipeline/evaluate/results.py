"""Rankings, and the Parquet file they are kept in: query, rank (from 1), key, score; what was asked in the footer.

What is in such a file is scored without a model or an index. Files of other programs do as well, if they have query,
rank and key, each query's rows together and in order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.errors import UserError
from pipeline.core.types import Floats

FORMAT = "sightline-rankings-1"
ROWS = 1 << 18
SCHEMA = pa.schema([("query", pa.string()), ("rank", pa.int32()), ("key", pa.string()), ("score", pa.float32())])
REMEDY = "write one with `sightline evaluate ROOT ... --export FILE.parquet`"


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One query's result: keys (m,) and scores (m,), best first."""

    query: str
    keys: Sequence[str]
    scores: Floats


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What rankings are of, as far as it is known. images: how many could be ranked for each query.

    classes: size of each class of the collection, where queries were its own images, and level: of which folder.
    """

    snapshot: int | None = None
    index: str = ""
    descriptor: str = ""
    images: int | None = None
    level: int | None = None
    classes: Mapping[str, int] | None = None
    skipped: int = 0
    unclassed: int = 0


class ResultsWriter:
    """Writes rankings to a file as they come; a context manager."""

    def __init__(self, path: Path, asked: Asked) -> None:
        told = {"sightline.format": FORMAT, "sightline.asked": json.dumps(asdict(asked), ensure_ascii=False)}
        told |= {"sightline.snapshot": str(asked.snapshot), "sightline.index": asked.index}
        self._writer = pq.ParquetWriter(path, SCHEMA.with_metadata(told), compression="zstd")
        self._waiting: list[Ranking] = []
        self._rows = 0

    def add(self, ranking: Ranking) -> None:
        """Write one ranking, sooner or later."""
        self._waiting.append(ranking)
        self._rows += len(ranking.keys)
        if self._rows >= ROWS:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting, self._rows = self._waiting, [], 0
        lengths = [len(ranking.keys) for ranking in waiting]
        columns = [
            pa.array([ranking.query for ranking in waiting], pa.string()).take(
                pa.array(np.repeat(np.arange(len(waiting)), lengths))
            ),
            pa.array(np.concatenate([np.arange(1, n + 1, dtype=np.int32) for n in lengths])),
            pa.array([key for ranking in waiting for key in ranking.keys], pa.string()),
            pa.array(np.concatenate([np.asarray(ranking.scores, np.float32) for ranking in waiting])),
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._writer.schema))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None and self._waiting:
            self._flush()
        self._writer.close()


class Results:
    """A file of rankings, opened. UserError when it is none."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError):
            raise UserError(name, "is no Parquet file", REMEDY) from None
        there = self._file.schema_arrow
        missing = [column for column in ("query", "rank", "key") if column not in there.names]
        if missing:
            raise UserError(name, f"has no column {missing[0]}", REMEDY)
        self._columns = [column for column in SCHEMA.names if column in there.names]
        self.asked = self._asked(there.metadata or {})

    def _asked(self, footer: Mapping[bytes, bytes]) -> Asked:
        if footer.get(b"sightline.format", b"").decode() != FORMAT:
            return Asked()
        try:
            body: dict[str, Any] = json.loads(footer[b"sightline.asked"])
            return Asked(**body)
        except (ValueError, KeyError, TypeError):
            raise UserError(self.name, "has a footer that cannot be read", REMEDY) from None

    def rankings(self) -> Iterator[Ranking]:
        """Yield the rankings in the order of the file; UserError where its rows are in no order."""
        seen: set[str] = set()
        for query, rows in self._runs():
            if query in seen:
                raise UserError(self.name, f"has the rows of query {query!r} in two places", "sort by query and rank")
            seen.add(query)
            table = pa.concat_tables(rows)
            ranks = table["rank"].to_numpy()
            keys = table["key"].to_pylist()
            if not np.array_equal(ranks, np.arange(1, len(ranks) + 1)):
                raise UserError(self.name, f"query {query!r} does not have the ranks 1, 2, 3, ...", "sort by rank")
            if len(set(keys)) != len(keys):
                raise UserError(self.name, f"query {query!r} has a key twice", "rank each image once")
            scored = "score" in self._columns
            scores = table["score"].to_numpy().astype(np.float32) if scored else np.zeros(len(keys), np.float32)
            yield Ranking(query=query, keys=keys, scores=scores)

    def keys(self) -> set[str]:
        """Return the keys of all images that are ranked somewhere in the file."""
        found: set[str] = set()
        for batch in self._file.iter_batches(batch_size=ROWS, columns=["key"]):
            found.update(pc.unique(batch.column(0)).to_pylist())
        return found

    def _runs(self) -> Iterator[tuple[str, list[pa.Table]]]:
        """Yield the rows of each query; a query may go on in the next batch."""
        current: str = ""
        parts: list[pa.Table] = []
        for batch in self._file.iter_batches(batch_size=ROWS, columns=self._columns):
            table = pa.Table.from_batches([batch])
            for query, start, end in _cuts(table["query"].to_pylist()):
                if parts and query != current:
                    yield current, parts
                    parts = []
                current = query
                parts.append(table.slice(start, end - start))
        if parts:
            yield current, parts


def _cuts(names: list[str]) -> Iterator[tuple[str, int, int]]:
    """Yield (name, start, end) of each run of equal names."""
    start = 0
    for place in range(1, len(names) + 1):
        if place == len(names) or names[place] != names[start]:
            yield names[start], start, place
            start = place
