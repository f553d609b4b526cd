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

from pipeline.core.errors import IntegrityError
from pipeline.core.types import Floats, Ints
from pipeline.index._faiss import Marks

Codes = npt.NDArray[np.uint8]


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


def encode(x: Floats, tensors: dict[str, Floats], bits: int) -> Codes:
    """Return the packed codes (n, bits / 8) of vectors (n, d); zero counts as positive. Bits beyond d are 0."""
    y: npt.NDArray[Any] = x
    if "matrix" in tensors:
        # Double precision: which side of zero a value falls on is not to depend on how a batch is cut.
        y = x.astype(np.float64) @ tensors["matrix"].T.astype(np.float64) + tensors["bias"]
    signs = y[:, :bits] >= 0
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
