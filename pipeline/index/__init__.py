"""Index kinds, one file each: train an empty index, fill it, merge parts, search. No storage, no manifests here.

Every file a kind writes is self-contained; ids inside are `row_ids` (position << 32 | row, see core/types). The
caller verifies digests before a path reaches `load`, `fill` or `merge`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from pipeline.core.errors import UserError
from pipeline.core.specs import Spec
from pipeline.core.types import Floats, Ints

Batch = tuple[int | Ints, Floats]
"""The position of a descriptor file, or the id of each vector; and vectors (n, d)."""


class Searcher(Protocol):
    """One loaded index file."""

    rows: int
    dim: int

    def search(self, queries: Floats, k: int, *, exclude: Ints, effort: int | None = None) -> tuple[Floats, Ints]:
        """Return (scores (q, k), ids (q, k)), best first, larger is better, id -1 where there are fewer than k.

        queries: (q, d) float32, L2-normalised like the indexed vectors. exclude: sorted ids never to return; what it
        becomes inside is kept for the next search with the same array, so it must not be changed.
        effort: overrides the setting that the Spec names so, for this search; kinds that have none look at everything.
        Ties are ordered by id. Scores estimate the cosine; `exact` on the Spec tells whether they are exact.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The parts of an IVF-PQ index: vectors of `dim`, rotated into `width` (by OPQ or not), nlist lists, m codes of so
    many bits each."""

    dim: int
    width: int
    nlist: int
    m: int
    bits: int
    opq: bool


class Engine(Protocol):
    """What computes the distances of training and filling, and where; see _engine.py. device: for people."""

    device: str

    def train(self, points: Floats, layout: Layout, seed: int) -> Any:
        """Return a trained empty faiss index, from points (n, dim), at least as many as lists and as codes."""
        ...

    def adder(self, index: Any) -> Callable[[Floats, Ints], None]:
        """Return what adds vectors (n, dim) under ids (n,) to a trained IVF-PQ index."""
        ...

    def expect_cagra(self) -> None:
        """Raise a UserError where there is no CAGRA."""
        ...

    def cagra(self, vectors: Floats, m: int) -> Any:
        """Return a faiss index whose `hnsw` links vectors (n, d); UserError where there is no CAGRA."""
        ...


class IndexSpec(Spec):
    """Settings of an index kind. Fields left at None are chosen by `resolve` from the size of the collection."""

    family: ClassVar[str] = "pipeline.index"
    suffix: ClassVar[str] = ".faiss"
    exact: ClassVar[bool] = False
    """True when scores are exact, so that no re-ranking can change the result."""
    effort: ClassVar[str] = ""
    """The setting that trades the time of a search for its recall: nprobe, ef_search ...; "" where there is none."""

    @property
    def needs_gpu(self) -> bool:
        """Whether it can be filled on a GPU only."""
        return False

    @property
    def signs_alone(self) -> bool:
        """Whether its codes are the signs of the vectors' own values, which must then be centred."""
        return False

    def resolve(self, *, rows: int, dim: int, memory_bytes: int | None = None) -> Self:
        """Return a copy with every field set, from (n, d, memory budget); UserError when faiss cannot do it."""
        raise NotImplementedError

    def row_bytes(self, dim: int) -> int:
        """Return the bytes per vector of a filled index; settings are resolved."""
        raise NotImplementedError

    def loaded_bytes(self, rows: int, dim: int) -> int:
        """Return the bytes that an index of `rows` vectors takes when it is loaded; settings are resolved."""
        return rows * self.row_bytes(dim)

    def fill_bytes(self, rows: int, dim: int) -> int:
        """Return the bytes of memory that filling an index with so many vectors takes; settings are resolved."""
        return self.loaded_bytes(rows, dim)

    def of_size(self, row_bytes: int, *, rows: int, dim: int) -> Self:  # noqa: ARG002 - kinds that choose a size do
        """Return a copy with every field set, as it is of published files with so many bytes per vector."""
        return self.resolve(rows=rows, dim=dim)

    def within(self, rows: int, dim: int, memory_bytes: int | None) -> Self:
        """Return these settings; UserError when a loaded index takes more than the budget, and cannot be smaller."""
        needed = 0 if memory_bytes is None else self.loaded_bytes(rows, dim)
        if memory_bytes is not None and needed > memory_bytes:
            raise UserError(f"{self.kind} over {rows} rows", f"needs {needed} bytes at least", "raise --index-memory")
        return self

    def sample_rows(self, rows: int) -> int:
        """Return how many of `rows` vectors training wants; 0 when the kind needs no training data."""
        raise NotImplementedError

    def training_work(self, rows: int, dim: int) -> float:  # noqa: ARG002 - kinds that train on GPUs count it
        """Return the multiply-adds of training on `rows` vectors that an engine may do; settings are resolved."""
        return 0.0

    def lists(self, rows: int) -> int:  # noqa: ARG002 - kinds with lists choose
        """Return how many inverted lists a collection of `rows` vectors has; settings need not be resolved."""
        return 0

    def filling_work(self, lists: int, dim: int) -> float:  # noqa: ARG002 - kinds that fill on GPUs count it
        """Return the multiply-adds per vector of a fill into so many lists that an engine may do."""
        return 0.0

    def expect_engine(self, engine: Engine) -> None:
        """Raise a UserError when it cannot be filled by an engine."""
        if self.needs_gpu:
            engine.expect_cagra()

    def train(self, sample: Floats, *, dim: int, seed: int, path: Path, engine: Engine | None = None) -> None:
        """Write the trained empty index to `path`, from a sample (n, d) of L2-normalised float32 vectors.

        engine: what computes, for kinds that count their work; None is faiss on the CPU.
        """
        raise NotImplementedError

    def fill(self, trained: Path, batches: Iterable[Batch], path: Path, *, engine: Engine | None = None) -> int:
        """Add the vectors (n, d) of descriptor files to a copy of the trained index; return how many it holds.

        With a position, rows are counted over its consecutive batches; ids (n,) are taken as they are, and may repeat:
        the local descriptors of an image share one. engine: see `train`.
        """
        raise NotImplementedError

    def health(self, trained: Path, sample: Floats) -> dict[str, float]:  # noqa: ARG002 - kinds with anything to say do
        """Return how a sample (n, d) fits the trained index, measure -> value; smaller is better."""
        return {}

    def list_sizes(self, path: Path) -> Ints:  # noqa: ARG002 - kinds with lists read them
        """Return how many vectors each inverted list of a filled index holds, (lists,); (0,) for kinds without any."""
        return np.zeros(0, np.int64)

    def merge(self, parts: Sequence[tuple[Path, int]], path: Path) -> int:
        """Merge index files into one; each part is (file, by how many positions its ids move). Return the rows."""
        raise NotImplementedError

    def load(self, path: Path, *, rows: int, dim: int) -> Searcher:
        """Open a filled index for searching; IntegrityError unless kind, rows and dim are as stated."""
        raise NotImplementedError
