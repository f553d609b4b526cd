"""Binary codes: where their bits come from, and how faiss's binary indexes give them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file
from threadpoolctl import threadpool_limits

from pipeline.core.errors import IntegrityError, UserError
from pipeline.core.types import Floats, Ints
from pipeline.index._faiss import Marks

Codes = npt.NDArray[np.uint8]
UNEVEN = 0.05
"""A bit that a smaller share of a sample has, or has not, says next to nothing."""
SPLIT_ROWS = 16_384
"""So many rows of a sample say where a bit splits it."""
CHECKED = 1024
"""So many rows of a sample say whether all codes are alike."""
ALIKE_FROM = 16
"""Fewer descriptors may well have one code."""


def rotation(code: str, points: Floats, dim: int, bits: int, seed: int) -> dict[str, Floats]:
    """Return {} for sign, else `matrix` (bits, dim) and `bias` (bits,): a code is the signs of matrix · x + bias.

    lsh: random orthogonal rows, as faiss draws them, with thresholds at zero. itq: see lsh.py.
    """
    if code == "sign":
        return {}
    with threadpool_limits(1):
        if code == "lsh":
            drawn = faiss.RandomRotationMatrix(dim, bits)
            drawn.init(seed + 5)
            return {"matrix": matrix_of(drawn), "bias": np.zeros(bits, np.float32)}
        transform = itq(points, dim, bits, seed)
    matrix = matrix_of(transform.pca_then_itq)
    mean = np.asarray(faiss.vector_to_array(transform.mean), dtype=np.float32)
    return {"matrix": matrix, "bias": np.asarray(-matrix @ mean, dtype=np.float32)}


def split(points: Floats, tensors: dict[str, Floats], bits: int) -> dict[str, Floats]:
    """Return tensors whose bias makes every bit split a sample (n, d) that now nearly all or nearly none of it has.

    The signs of descriptors that are never negative (GeM, histograms) are all alike; bits that do split stay as they
    are, so that learned hash codes remain their signs.
    """
    values = projected(points[:SPLIT_ROWS], tensors, bits)
    bias = -even_thresholds(values, np.zeros(values.shape[1]))
    return {**tensors, "bias": np.asarray(tensors.get("bias", np.float32(0)) + bias, np.float32)}


def even_thresholds(values: npt.NDArray[Any], start: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return thresholds (b,) of values (n, b): those to start from where they split their column, else the most even.

    Where many values are equal (zeros of histograms) a median may be the least value, which all are at or above.
    """
    thresholds = np.array(start, np.float64)
    shares = (values >= thresholds).mean(axis=0)
    for column in np.flatnonzero(np.minimum(shares, 1 - shares) < UNEVEN):
        levels, counts = np.unique(values[:, column], return_counts=True)
        if len(levels) > 1:
            place = int(np.argmin(np.abs(np.cumsum(counts)[:-1] - len(values) / 2)))
            between = np.float32((float(levels[place]) + float(levels[place + 1])) / 2)
            thresholds[column] = between if between > levels[place] else levels[place + 1]
    return thresholds


def expect_different(name: str, codes: Codes, points: Floats) -> None:
    """Raise a UserError when a sample (n, d) of descriptors that differ has one code (n, bytes)."""
    if len(points) >= ALIKE_FROM and (codes == codes[0]).all() and np.ptp(points, axis=0).max() > 0:
        raise UserError(
            f"{name} codes", f"of {len(points)} descriptors are all alike", "set thresholds = true, or use --whiten pca"
        )


def matrix_of(transform: Any) -> Floats:
    """Return a faiss LinearTransform's matrix (d_out, d_in)."""
    return np.asarray(faiss.vector_to_array(transform.A), dtype=np.float32).reshape(transform.d_out, transform.d_in)


def itq(points: Floats, dim: int, bits: int, seed: int) -> Any:
    """Return faiss's ITQ transform, learned from points (n, dim) by the calling thread's share of threads."""
    transform = faiss.ITQTransform(dim, bits, True)
    transform.itq.seed = seed + 123
    # PCA wants more points than directions: a small collection is repeated, which leaves its covariance as it is.
    enough = np.resize(points, (max(len(points), 2 * dim), dim)) if len(points) < 2 * dim else points
    transform.train(np.ascontiguousarray(enough))
    return transform


def projected(x: Floats, tensors: dict[str, Floats], bits: int) -> npt.NDArray[Any]:
    """Return the values (n, ≤ bits) whose signs are the bits of vectors (n, d)."""
    y: npt.NDArray[Any] = x
    if "matrix" in tensors:
        # Double precision: which side of zero a value falls on is not to depend on how a batch is cut.
        y = x.astype(np.float64) @ tensors["matrix"].T.astype(np.float64)
    y = y[:, :bits]
    return y + tensors["bias"] if "bias" in tensors else y


def encode(x: Floats, tensors: dict[str, Floats], bits: int) -> Codes:
    """Return the packed codes (n, bits / 8) of vectors (n, d); zero counts as positive. Bits beyond d are 0."""
    signs = projected(x, tensors, bits) >= 0
    if signs.shape[1] < bits:
        signs = np.pad(signs, ((0, 0), (0, bits - signs.shape[1])))
    return np.packbits(signs, axis=1, bitorder="little")


def codes_of(index: Any) -> Codes:
    """Return the codes (n, bits / 8) of a faiss binary index, in the order they were added."""
    width = index.code_size
    if isinstance(index, faiss.IndexBinaryIVF):
        codes = np.zeros((index.ntotal, width), np.uint8)
        lists = index.invlists
        for number in range(index.nlist):
            size = lists.list_size(number)
            if size:
                rows = faiss.rev_swig_ptr(lists.get_ids(number), size).copy()
                codes[rows] = faiss.rev_swig_ptr(lists.get_codes(number), size * width).reshape(-1, width)
        return codes
    flat = faiss.downcast_IndexBinary(index.storage) if isinstance(index, faiss.IndexBinaryHNSW) else index
    return np.asarray(faiss.vector_to_array(flat.xb), dtype=np.uint8).reshape(-1, width)


def tensors_of(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Read a safetensors file that must hold some names."""
    try:
        tensors: dict[str, Any] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise IntegrityError(path.name, f"is no safetensors file ({error})") from None
    missing = [name for name in names if name not in tensors]
    if missing:
        raise IntegrityError(path.name, f"lacks {', '.join(missing)}")
    return tensors


def live_lists(index: Any, marks: Marks) -> tuple[Any, Ints]:
    """Return an IndexBinaryIVF of the live rows alone in the lists they are in, and how many each holds, (nlist,)."""
    lists, width = index.invlists, index.code_size
    kept = faiss.IndexBinaryIVF(index.quantizer, index.d, index.nlist)
    kept.referenced_objects = [index]
    counts = np.zeros(index.nlist, np.int64)
    for number in range(index.nlist):
        size = lists.list_size(number)
        if not size:
            continue
        rows = faiss.rev_swig_ptr(lists.get_ids(number), size)
        live = np.flatnonzero(marks[rows])
        counts[number] = len(live)
        if len(live):
            rows = np.ascontiguousarray(rows[live])
            codes = np.ascontiguousarray(
                faiss.rev_swig_ptr(lists.get_codes(number), size * width).reshape(size, -1)[live]
            )
            kept.invlists.add_entries(number, len(live), faiss.swig_ptr(rows), faiss.swig_ptr(codes))
    kept.ntotal = int(counts.sum())
    return kept, counts


def live_codes(codes: Codes, marks: Marks) -> tuple[Any, Ints]:
    """Return an IndexBinaryFlat of the live codes alone, and the row of each."""
    rows = np.flatnonzero(marks)
    flat = faiss.IndexBinaryFlat(8 * codes.shape[1])
    flat.add(np.ascontiguousarray(codes[rows]))
    return flat, rows
