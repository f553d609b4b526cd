"""A forest of randomised KD-trees (Silpa-Anan, Hartley, 2008; FLANN: Muja, Lowe, 2009), by OpenCV. For few dimensions.

Suits descriptors that PCA reduced to some tens of dimensions. The file is safetensors: vectors, ids and FLANN's trees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field
from safetensors.numpy import save_file

from pipeline.core import staging
from pipeline.core.errors import IntegrityError
from pipeline.core.extras import library
from pipeline.core.types import Floats, Ints
from pipeline.index import Batch, Engine, IndexSpec, _binary, _faiss
from pipeline.index._live import AT_ONCE, Live, top

KD_TREES = 1
"""FLANN's number of the algorithm."""
HEADER, NODE = 64, 24
"""Bytes of FLANN's file before its nodes, and of a node: dimension, value, and two addresses."""
SEED = 20_081
ROWS_PER_LEAF = 20
"""Rows that are compared one after another in the time that a leaf of the forest takes, about."""
OVERHEAD = 8


class Spec(IndexSpec):
    """trees of the forest; checks: leaves that a search looks at."""

    suffix: ClassVar[str] = ".safetensors"
    effort: ClassVar[str] = "checks"

    trees: int = Field(default=4, ge=1, le=64)
    checks: int = Field(default=512, ge=1)

    def resolve(self, *, rows: int, dim: int, memory_bytes: int | None = None) -> Self:
        """Nothing to choose; UserError when the forest does not fit a budget."""
        return self.within(rows, dim, memory_bytes)

    def row_bytes(self, dim: int) -> int:
        """The vector, its id, and two nodes in each tree."""
        return 4 * dim + OVERHEAD + self.trees * 2 * NODE

    def sample_rows(self, rows: int) -> int:  # noqa: ARG002 - no training
        """No training data."""
        return 0

    def train(
        self,
        sample: Floats,  # noqa: ARG002 - no training
        *,
        dim: int,
        seed: int,  # noqa: ARG002 - no training
        path: Path,
        engine: Engine | None = None,  # noqa: ARG002 - faiss alone
    ) -> None:
        """Write an empty file."""
        _write(path, np.zeros((0, dim), np.float32), np.zeros(0, np.int64), self.trees)

    def fill(
        self,
        trained: Path,
        batches: Iterable[Batch],
        path: Path,
        *,
        engine: Engine | None = None,  # noqa: ARG002 - faiss alone
    ) -> int:
        """Build the forest over all vectors."""
        empty = _read(trained)
        vectors, ids = [empty["vectors"]], [empty["ids"]]
        for x, mine in _faiss.numbered(batches):
            vectors.append(x)
            ids.append(mine)
        return _write(path, np.concatenate(vectors), np.concatenate(ids), self.trees)

    def merge(self, parts: Sequence[tuple[Path, int]], path: Path) -> int:
        """Build the forest anew over the vectors of all parts."""
        read = [(_read(part), positions) for part, positions in parts]
        ids = [_faiss.shifted(tensors["ids"], positions) for tensors, positions in read]
        return _write(
            path, np.concatenate([tensors["vectors"] for tensors, _ in read]), np.concatenate(ids), self.trees
        )

    def load(self, path: Path, *, rows: int, dim: int) -> KdTreeSearcher:
        """Open for searching; trees that are not whole are refused before OpenCV follows them."""
        tensors = _read(path)
        if tensors["vectors"].shape != (rows, dim) or len(tensors["ids"]) != rows:
            raise IntegrityError(path.name, f"holds {tensors['vectors'].shape} vectors, {rows} x {dim} were recorded")
        return KdTreeSearcher(tensors, self.checks, path.name)


def _write(path: Path, vectors: Floats, ids: Ints, trees: int) -> int:
    vectors = np.ascontiguousarray(vectors)
    tensors = {"vectors": vectors, "ids": ids, "trees": np.array([trees])}
    if len(vectors) > 1:
        tensors["forest"] = _grown(vectors, trees)
    save_file(tensors, path)
    return len(ids)


def _read(path: Path) -> dict[str, Any]:
    return _binary.tensors_of(path, ("vectors", "ids", "trees"))


def _grown(vectors: Floats, trees: int) -> npt.NDArray[np.uint8]:
    """Return FLANN's file of a forest: with 1 for every address, of which only whether there is a child is read, and 0
    for what leaves have in place of a value, which FLANN leaves as it finds it.
    """
    cv2 = library("cv2", "classical", "index kdtree")
    # Trees that several threads grow draw from several generators: one thread, and one seed, give one forest.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    cv2.setRNGSeed(SEED)
    index = cv2.flann_Index(vectors, {"algorithm": KD_TREES, "trees": trees})
    cv2.setNumThreads(threads)
    with staging.folder() as folder:
        file = Path(folder) / "forest"
        index.save(str(file))
        forest = np.fromfile(file, np.uint8)
    nodes = forest[HEADER:].reshape(-1, NODE)
    addresses = nodes[:, 8:].copy().view(np.uint64)
    nodes[:, 8:] = (addresses != 0).astype(np.uint64).view(np.uint8)
    nodes[~addresses.any(axis=1), 4:8] = 0
    return forest


def _whole(forest: npt.NDArray[np.uint8], rows: int, dim: int, trees: int) -> bool:
    """Tell whether a forest is `trees` binary trees, each over `rows` leaves, that name only what is there."""
    if len(forest) != HEADER + trees * (2 * rows - 1) * NODE:
        return False
    nodes = forest[HEADER:].reshape(trees, 2 * rows - 1, NODE)
    fields = nodes[..., :4].copy().view(np.int32)[..., 0]
    children = nodes[..., 8:].copy().view(np.uint64)
    inner = children[..., 0] == 1
    if not (((children == 1).all(axis=-1) == inner).all() and ((children == 0).all(axis=-1) == ~inner).all()):
        return False
    # In preorder each inner node opens one place more than it fills: the count reaches zero at the last node only.
    open_places = 1 + np.cumsum(np.where(inner, 1, -1), axis=1)
    bounds = np.where(inner, dim, rows)
    named = (fields >= 0) & (fields < bounds)
    return bool((open_places[:, :-1] > 0).all() and (open_places[:, -1] == 0).all() and named.all())


class KdTreeSearcher:
    """See pipeline.index.Searcher. Scores are 1 - d² / 2, the cosine of unit vectors at Euclidean distance d."""

    def __init__(self, tensors: dict[str, Any], checks: int, name: str) -> None:
        self._vectors, self._ids, self._checks = tensors["vectors"], tensors["ids"], checks
        self.rows, self.dim = self._vectors.shape
        self._index: Any = None
        self._live = _faiss.Remembered(lambda exclude: Live.of(self._ids, exclude))
        if self.rows > 1:
            forest, trees = tensors.get("forest"), int(tensors["trees"][0])
            if forest is None or not _whole(forest, self.rows, self.dim, trees):
                raise IntegrityError(name, "holds trees that are not whole")
            cv2 = library("cv2", "classical", "index kdtree")
            self._index = cv2.flann_Index()
            with staging.folder() as folder:
                file = Path(folder) / "forest"
                forest.tofile(file)
                if not self._index.load(self._vectors, str(file)):
                    raise IntegrityError(name, "holds trees that OpenCV cannot read")

    def search(self, queries: Floats, k: int, *, exclude: Ints, effort: int | None = None) -> tuple[Floats, Ints]:
        """Search the forest, as many live leaves as without exclusions; where too few of the nearest are live, all."""
        queries, k = np.ascontiguousarray(queries, np.float32), min(k, self.rows)
        live = self._live.of(exclude)
        wanted = _faiss.overfetch(k, live=live.count, rows=self.rows)
        checks = max(int((effort or self._checks) / live.share), 4 * wanted)
        dear = live.count < self.rows and ROWS_PER_LEAF * checks >= self.rows
        if self._index is None or not len(queries) or 4 * wanted >= self.rows or dear:
            return self._all(queries, k, live)
        rows, distance = self._index.knnSearch(queries, wanted, params={"checks": checks})
        rows = np.where((rows >= 0) & (rows < self.rows), rows, -1).astype(np.int64)
        scores, rows, met = live.first(1 - distance / 2, rows, k)
        scores, ids = _faiss.in_order(scores, np.where(rows < 0, -1, self._ids[rows]))
        short = np.flatnonzero(met < min(k, live.count))
        if len(short):
            scores[short], ids[short] = self._all(queries[short], k, live)
        return scores, ids

    def _all(self, queries: Floats, k: int, live: Live) -> tuple[Floats, Ints]:
        """Compare with every live vector, some queries at a time."""
        step = max(1, AT_ONCE // max(1, self.rows))
        names = np.where(live.marks, self._ids, -1)
        parts = []
        for start in range(0, max(1, len(queries)), step):
            similarity = np.where(live.marks, queries[start : start + step] @ self._vectors.T, -np.inf)
            parts.append(top(similarity, names, k))
        scores, ids = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return _faiss.in_order(scores, ids)
