"""Who computes the distances of an IVF-PQ index: faiss on the CPU, or torch on a GPU (infra/decisions/0012).

The trained parts and the codes are faiss's in either case, and so is the file. On a GPU torch assigns and encodes, and
faiss takes the codes; they are those of the CPU but for rounding where two centroids are equally near.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import torch

from pipeline.core.errors import UserError
from pipeline.core.types import Floats, Ints
from pipeline.index import Engine, Layout, _cagra, _kmeans, _pq

log = logging.getLogger(__name__)

OPQ_ROWS = 65_536
"""So many rows fit the rotation; more do not change it."""
LIST_STEPS, CODE_STEPS = 10, 25
"""Steps of k-means for the lists and for the codebooks."""
BATCH = 1 << 16
"""Vectors that are encoded at a time."""
AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Values of a matrix of scores held at a time, at most: a part of the caches, or 256 MB."""
GPU_FROM = 3e11
"""Multiply-adds of a training or a fill from which a GPU is asked for: four seconds of two cores, about what
starting CUDA in a fresh process takes."""
HIDDEN = ("", "-1", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES that give a process no GPU."""
COMPUTE_BOUND = 250_000
"""Multiply-adds per vector from which a fill waits for distances rather than for reading and storing."""


def training_work(layout: Layout, rows: int) -> float:
    """Return the multiply-adds of all distances that training on `rows` vectors computes; rotations do not count."""
    codes = 1 << layout.bits
    clustered = min(rows, _kmeans.POINTS_PER_CENTROID * layout.nlist)
    encoded = min(rows, _kmeans.POINTS_PER_CENTROID * codes)
    lists = LIST_STEPS * clustered * layout.nlist * layout.width
    books = CODE_STEPS * encoded * codes * layout.width
    steps = _kmeans.FIRST_STEPS + (_kmeans.OPQ_ROUNDS - 1) * _kmeans.NEXT_STEPS + _kmeans.OPQ_ROUNDS
    rotation = steps * min(rows, OPQ_ROWS) * codes * layout.width if layout.opq else 0
    return float(lists + books + rotation)


def worth_training(device: str, work: float) -> bool:
    """Tell whether a training of so many multiply-adds is to ask for a GPU; device: auto, cpu or cuda."""
    return device != "cpu" and work > 0 and (device == "cuda" or work >= GPU_FROM)


def worth_filling(device: str, work: float, rows: int) -> bool:
    """Tell whether a fill of `rows` vectors, of so many multiply-adds each, is to ask for a GPU."""
    if not work or device == "cpu":
        return False
    return device == "cuda" or (work >= COMPUTE_BOUND and work * rows >= GPU_FROM)


def engine_for(device: str) -> Engine:
    """Return what computes on a device: cpu, cuda, or auto, which is the GPU that torch sees, if it sees one.

    UserError where cuda is asked for and there is none.
    """
    if device != "cpu" and torch.cuda.is_available():
        return TorchEngine(torch.device("cuda", 0))
    if device == "cuda":
        raise UserError("--device cuda", *_why_not())
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if device == "auto" and given not in HIDDEN:
        why = _why_not()[0]
        log.warning("index: this process was given GPU %s and computes on the CPU: %s", given, why)
        return FaissEngine(f"cpu: GPU {given} is there, but {why}")
    return FaissEngine()


def _why_not() -> tuple[str, str]:
    """Return why torch sees no GPU, and what to do."""
    if torch.version.cuda is None:
        return "torch is installed without CUDA", "install torch's CUDA wheel, or use --device auto"
    needed = f"install a driver for CUDA {torch.version.cuda} (or torch's wheel for the driver's), or use --device auto"
    return "torch finds no GPU that it can use", needed


class FaissEngine:
    """See pipeline.index.Engine: faiss, on the cores of this process."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def train(self, points: Floats, layout: Layout, seed: int) -> Any:
        """Let faiss train rotation, lists and codebooks."""
        ivf = _empty(layout)
        for clustering in (ivf.cp, ivf.pq.cp):
            clustering.seed, clustering.min_points_per_centroid = seed + 1234, 1
        index: Any = ivf
        if layout.opq:
            rotation = _pq.rotation(points[:OPQ_ROWS], m=layout.m, width=layout.width, bits=layout.bits, seed=seed)
            index = faiss.IndexPreTransform(rotation, ivf)
        elif layout.width != layout.dim:
            index = faiss.IndexPreTransform(_pq.random_rotation(layout.dim, layout.width, seed), ivf)
        index.train(points)
        return index

    def adder(self, index: Any) -> Callable[[Floats, Ints], None]:
        """Let faiss add."""
        add: Callable[[Floats, Ints], None] = index.add_with_ids
        return add

    def expect_cagra(self) -> None:
        """There is no GPU."""
        raise UserError("hnsw build cagra", "needs a GPU, and this process computes on the CPU", "use build = insert")

    def cagra(self, vectors: Floats, m: int) -> Any:  # noqa: ARG002 - part of the protocol
        """There is no GPU."""
        self.expect_cagra()


class TorchEngine:
    """See pipeline.index.Engine: torch, with sample and centroids in the memory of a device.

    library: the module faiss, of which CAGRA alone needs a build for GPUs. at_once: values of a matrix of scores that
    are held at a time; 0 is what the device has room for.
    """

    def __init__(self, device: torch.device, *, library: Any = faiss, at_once: int = 0) -> None:
        self._where, self._library = device, library
        self.device = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self._at_once = at_once or AT_ONCE[device.type]
        if device.type == "cuda":
            # Scores, their half squares and what argmax holds; an eighth of what is free, in floats.
            self._at_once = min(self._at_once, max(1 << 20, torch.cuda.mem_get_info(device)[0] // 32))

    def train(self, points: Floats, layout: Layout, seed: int) -> Any:
        """Train rotation, lists and codebooks from a sample that stays on the device."""
        with _kmeans.strict():
            x = _tensor(points, self._where)
            matrix = self._rotation(x[:OPQ_ROWS], layout, seed)
            if matrix is not None:
                x = x @ torch.from_numpy(matrix).to(self._where).T
            lists = self._clustered(x, layout.nlist, seed)
            some = x[self._places(len(x), _kmeans.POINTS_PER_CENTROID << layout.bits, seed + 1)]
            found = _kmeans.nearest(some[None], lists[None], spherical=True, at_once=self._at_once)[0]
            residuals = _kmeans.sliced(some - lists[found], layout.m)
            books = _kmeans.kmeans(
                residuals, 1 << layout.bits, steps=CODE_STEPS, seed=seed, spherical=False, at_once=self._at_once
            )
            return _assembled(layout, matrix, lists.cpu().numpy(), books.cpu().numpy())

    def _rotation(self, x: torch.Tensor, layout: Layout, seed: int) -> Floats | None:
        """Return the matrix (width, dim) that comes before the lists, if any."""
        if layout.opq:
            padded = torch.nn.functional.pad(x, (0, layout.width - layout.dim))
            turn = _kmeans.opq(padded, m=layout.m, codes=1 << layout.bits, seed=seed, at_once=self._at_once)
            return np.ascontiguousarray(turn[:, : layout.dim].cpu().numpy())
        return _pq.random_matrix(layout.dim, layout.width, seed) if layout.width != layout.dim else None

    def _clustered(self, x: torch.Tensor, count: int, seed: int) -> torch.Tensor:
        most = _kmeans.POINTS_PER_CENTROID * count
        x = x[self._places(len(x), most, seed)] if len(x) > most else x
        return _kmeans.kmeans(x[None], count, steps=LIST_STEPS, seed=seed, spherical=True, at_once=self._at_once)[0]

    def _places(self, rows: int, most: int, seed: int) -> torch.Tensor:
        return torch.from_numpy(np.random.default_rng(seed).permutation(rows)[:most]).to(self._where)

    def adder(self, index: Any) -> Callable[[Floats, Ints], None]:
        """Encode on the device; faiss stores the codes, in the order that its own adding has."""
        encoder = Encoder.of(index, self._where, self._at_once)
        ivf = faiss.extract_index_ivf(index)

        def add(vectors: Floats, ids: Ints) -> None:
            # What is not finite is near nothing: faiss counts it, and stores it in no list.
            there = np.isfinite(vectors).all(axis=1)
            sound, mine = (vectors, ids) if there.all() else (vectors[there], ids[there])
            for start in range(0, len(sound), BATCH):
                ivf.add_sa_codes(encoder.encode(sound[start : start + BATCH]), mine[start : start + BATCH])
            ivf.ntotal += len(vectors) - len(sound)
            index.ntotal = ivf.ntotal

        return add

    def expect_cagra(self) -> None:
        """Raise a UserError unless faiss has CAGRA and sees the GPU."""
        _cagra.expect(self._library)

    def cagra(self, vectors: Floats, m: int) -> Any:
        """Build the graph on the GPU."""
        return _cagra.graph(self._library, vectors, m)


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What makes codes of vectors, on a device: rotation (W, d) with bias, lists (L, W), codebooks (M, K, S)."""

    rotation: torch.Tensor | None
    bias: torch.Tensor | None
    lists: torch.Tensor
    codebooks: torch.Tensor
    bits: int
    list_bytes: int
    at_once: int

    @staticmethod
    def of(index: Any, device: torch.device, at_once: int) -> Encoder:
        """Take up what an IVF-PQ index, after a rotation or not, was trained to."""
        ivf = faiss.downcast_index(faiss.extract_index_ivf(index))
        lists = faiss.downcast_index(ivf.quantizer).reconstruct_n(0, ivf.nlist)
        books = faiss.vector_to_array(ivf.pq.centroids).reshape(ivf.pq.M, ivf.pq.ksub, ivf.pq.dsub)
        rotation = bias = None
        if isinstance(index, faiss.IndexPreTransform):
            turn = faiss.downcast_VectorTransform(index.chain.at(0))
            matrix = faiss.vector_to_array(turn.A).reshape(turn.d_out, turn.d_in)
            rotation = torch.from_numpy(matrix).to(device)
            bias = torch.from_numpy(faiss.vector_to_array(turn.b)).to(device) if turn.have_bias else None
        return Encoder(
            rotation=rotation,
            bias=bias,
            lists=torch.from_numpy(lists).to(device),
            codebooks=torch.from_numpy(books).to(device),
            bits=int(ivf.pq.nbits),
            list_bytes=int(ivf.coarse_code_size()),
            at_once=at_once,
        )

    def encode(self, vectors: Floats) -> _pq.Codes:
        """Return (n, bytes): the list of each vector (n, d), little-endian, and the codes of its residual, as faiss."""
        with _kmeans.strict():
            x = _tensor(vectors, self.lists.device)
            if self.rotation is not None:
                x = x @ self.rotation.T
                x = x if self.bias is None else x + self.bias
            found = _kmeans.nearest(x[None], self.lists[None], spherical=True, at_once=self.at_once)[0]
            residuals = _kmeans.sliced(x - self.lists[found], len(self.codebooks))
            codes = _kmeans.nearest(residuals, self.codebooks, spherical=False, at_once=self.at_once)
            numbers, lists = codes.T.to(torch.uint8).cpu().numpy(), found.cpu().numpy()
        packed = numbers if self.bits == 8 else faiss.pack_bitstrings(numbers.astype(np.int32), self.bits)
        prefix = lists.astype("<i8").view(np.uint8).reshape(len(lists), 8)[:, : self.list_bytes]
        return np.ascontiguousarray(np.concatenate([prefix, packed], axis=1))


def _tensor(x: Floats, device: torch.device) -> torch.Tensor:
    """Return an array on a device; one that cannot be written to, of which torch warns, is copied first."""
    return torch.from_numpy(x if x.flags.writeable else x.copy()).to(device)


def _empty(layout: Layout) -> Any:
    lists = faiss.IndexFlatIP(layout.width)
    return faiss.IndexIVFPQ(lists, layout.width, layout.nlist, layout.m, layout.bits, faiss.METRIC_INNER_PRODUCT)


def _assembled(layout: Layout, matrix: Floats | None, lists: Floats, books: Floats) -> Any:
    """Return the trained index of a rotation (W, d), lists (L, W) and codebooks (M, K, S)."""
    ivf = _empty(layout)
    ivf.quantizer.add(np.ascontiguousarray(lists))
    faiss.copy_array_to_vector(np.ascontiguousarray(books).ravel(), ivf.pq.centroids)
    ivf.is_trained = True
    if matrix is None:
        return ivf
    index = faiss.IndexPreTransform(_pq.linear(matrix), ivf)
    index.is_trained = True
    return index
