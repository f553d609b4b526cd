"""Whitening: mergeable moments, PCA and supervised fits, and the affine map that results. Always float64 inside.

A Whitening is one artifact: y = (x - mean) · projection, then L2. Where it came from (a fit here, a DIR or cirtorch
file) no longer matters once it is fitted. Reading foreign files is the business of checkpoints.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from pipeline.core.errors import IntegrityError, UserError
from pipeline.core.specs import Spec
from pipeline.core.types import Artifact, Floats

Doubles = npt.NDArray[np.float64]
WIDE = 2048
"""Dimensions above which the products of all pairs are no longer kept while there are fewer vectors than that."""
NOISE = float(np.finfo(np.float32).eps)
"""Relative size of the rounding of vectors, which are float32."""
RANK_TOLERANCE = 1e-9
"""Axes whose eigenvalue is below this share of the largest carry rounding noise only; whitening would amplify it."""


class WhitenSpec(Spec):
    """How descriptors are whitened: the digest once fitted, and until then how the fit is to be made.

    power is on the eigenvalues: 0.5 is classic whitening, 0.25 DIR's published setting, 0 a rotation. dims None keeps
    every axis that has variance. The sample is the first `sample_shards` shards in a seeded order.
    """

    method: Literal["pca", "file"] = "pca"
    power: float = 0.5
    dims: int | None = None
    sample_shards: int = 64
    seed: int = 0
    artifact: Artifact | None = None


@dataclass(frozen=True, kw_only=True)
class Moments:
    """count, total = Σ x (d,), outer = Σ x xᵀ (d, d) in float64. Merging in a fixed order gives a fixed result.

    Of wide vectors that are fewer than their dimensions the rows (n, d) stand for the outer product, which is larger.
    """

    count: int
    total: Doubles
    outer: Doubles | None = None
    rows: Doubles | None = None

    @staticmethod
    def of(vectors: Floats) -> Moments:
        """Return the moments of vectors (n, d)."""
        x = vectors.astype(np.float64)
        total = x.sum(axis=0)
        if x.shape[1] > WIDE and len(x) < x.shape[1]:
            return Moments(count=len(x), total=total, rows=x)
        return Moments(count=len(x), total=total, outer=x.T @ x)

    def product(self) -> Doubles:
        """Return Σ x xᵀ (d, d)."""
        if self.outer is not None:
            return self.outer
        assert self.rows is not None, "moments have rows or their product"
        return np.asarray(self.rows.T @ self.rows, dtype=np.float64)

    def __add__(self, other: Moments) -> Moments:
        count, total = self.count + other.count, self.total + other.total
        if self.rows is not None and other.rows is not None and count < len(total):
            return Moments(count=count, total=total, rows=np.concatenate([self.rows, other.rows]))
        return Moments(count=count, total=total, outer=self.product() + other.product())

    @staticmethod
    def merge(parts: list[Moments]) -> Moments:
        """Sum moments in the order given."""
        return reduce(lambda a, b: a + b, parts)

    def to_bytes(self) -> bytes:
        """Serialise as safetensors."""
        tensors = {"count": np.array([self.count], dtype=np.int64), "total": self.total}
        if self.rows is not None:
            tensors["rows"] = self.rows
        else:
            tensors["outer"] = self.product()
        data: bytes = save_safetensors(tensors)
        return data

    @staticmethod
    def from_bytes(data: bytes) -> Moments:
        """Read `to_bytes` back."""
        tensors = _tensors(data, "moments", ("count", "total"))
        outer, rows = tensors.get("outer"), tensors.get("rows")
        if (outer is None) == (rows is None):
            raise IntegrityError("moments", "lacks outer")
        return Moments(count=int(tensors["count"][0]), total=tensors["total"], outer=outer, rows=rows)


@dataclass(frozen=True, kw_only=True)
class Whitening:
    """mean (d,) and projection (d, k), float64."""

    mean: Doubles
    projection: Doubles

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.projection.ndim != 2 or len(self.mean) != len(self.projection):
            raise UserError("whitening", f"mean {self.mean.shape} and projection {self.projection.shape} do not fit")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.projection).all()):
            raise UserError("whitening", "holds values that are not finite", "fit it anew from more images")

    @property
    def input_dim(self) -> int:
        """Length d of the vectors it takes."""
        return len(self.mean)

    @property
    def dim(self) -> int:
        """Length k of the vectors it gives."""
        return int(self.projection.shape[1])

    def apply(self, vectors: Floats) -> Floats:
        """Return L2-normalised whitened vectors (n, k) for vectors (n, d).

        Computed in float64, so that the result, rounded to float32, does not depend on how a batch was cut.
        """
        if vectors.shape[1] != self.input_dim:
            raise UserError("whitening", f"takes {self.input_dim} dimensions, got {vectors.shape[1]}", "fit it anew")
        y = (vectors.astype(np.float64) - self.mean) @ self.projection
        y[self._is_noise(vectors, y)] = 0
        norms = np.linalg.norm(y, axis=1, keepdims=True)
        whitened: Floats = (y / np.maximum(norms, 1e-12)).astype(np.float32)
        return whitened

    def _is_noise(self, vectors: Floats, y: Doubles) -> npt.NDArray[np.bool_]:
        """Return which rows (n,) are the mean but for the rounding of float32: their direction means nothing."""
        spread = NOISE * np.linalg.norm(self.projection)
        size = np.linalg.norm(vectors, axis=1) + np.linalg.norm(self.mean)
        doubtful = np.linalg.norm(y, axis=1) <= spread * size
        for row in np.flatnonzero(doubtful):
            # The bound of the whole matrix is loose where its columns differ in length.
            rounding = (np.abs(vectors[row]) + np.abs(self.mean)) @ np.abs(self.projection)
            doubtful[row] = np.linalg.norm(y[row]) <= NOISE * np.linalg.norm(rounding)
        return np.asarray(doubtful, np.bool_)

    def to_bytes(self) -> bytes:
        """Serialise as safetensors."""
        data: bytes = save_safetensors(
            {"mean": np.ascontiguousarray(self.mean), "projection": np.ascontiguousarray(self.projection)}
        )
        return data

    @staticmethod
    def from_bytes(data: bytes) -> Whitening:
        """Read `to_bytes` back; the caller has verified the digest."""
        tensors = _tensors(data, "whitening", ("mean", "projection"))
        return Whitening(mean=tensors["mean"].astype(np.float64), projection=tensors["projection"].astype(np.float64))


def _tensors(data: bytes, what: str, names: tuple[str, ...]) -> dict[str, npt.NDArray[np.float64]]:
    try:
        tensors: dict[str, Doubles] = load_safetensors(data)
    except SafetensorError as error:
        raise IntegrityError(what, f"is no safetensors file ({error})") from None
    missing = [name for name in names if name not in tensors]
    if missing:
        raise IntegrityError(what, f"lacks {', '.join(missing)}")
    return tensors


def fit_pca(moments: Moments, *, power: float = 0.5, dims: int | None = None) -> Whitening:
    """Fit PCA whitening: projection = V · λ^-power over the `dims` largest eigenvalues of the covariance (/n).

    cirtorch's `pcawhitenlearn` (power 0.5), with a symmetric solver, and without the axes that have no variance: there
    are never more dimensions than the sample supports. Signs are fixed (largest component positive), so the result is
    a function of the moments alone. UserError when there is nothing to fit or `dims` exceeds d.
    """
    n, d = moments.count, len(moments.total)
    if n < 2:
        raise UserError("whitening", f"cannot be fitted from {n} image(s)", "index more images or use --whiten none")
    if dims is not None and not 1 <= dims <= d:
        raise UserError("whitening", f"--dims {dims} is not between 1 and {d}", "choose fewer dimensions")
    mean = moments.total / n
    values, vectors = _principal(moments, mean)
    supported = int((values > RANK_TOLERANCE * max(values[0], np.finfo(np.float64).tiny)).sum())
    supported = min(supported, n - 1)
    if supported == 0 or values[0] <= 0:
        raise UserError(
            "whitening", "cannot be fitted: all images of the sample have the same descriptor", "use --whiten none"
        )
    keep = min(supported, dims or d)
    axes = vectors[:, :keep]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(keep)])
    return from_components(mean, (axes * signs).T, values[:keep], power=power)


def _principal(moments: Moments, mean: Doubles) -> tuple[Doubles, Doubles]:
    """Return the eigenvalues (k,) of the covariance (/n), descending, and its eigenvectors (d, k)."""
    if moments.rows is None:
        covariance = moments.product() / moments.count - np.outer(mean, mean)
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        return values[::-1], vectors[:, ::-1]
    # Fewer vectors than dimensions: the products among them (n, n) have the same eigenvalues.
    centred = moments.rows - mean
    values, among = np.linalg.eigh(centred @ centred.T / moments.count)
    values, among = values[::-1], among[:, ::-1]
    scale = np.sqrt(np.maximum(values, np.finfo(np.float64).tiny) * moments.count)
    return values, centred.T @ among / scale


def from_components(
    mean: Doubles, components: Doubles, variance: Doubles, *, power: float, dims: int | None = None
) -> Whitening:
    """Build the map of DIR's `transform`: components (k, d), variance (k,): projection = componentsᵀ · variance^-power.

    DIR's common factor `whitenm` is left out: L2 follows, so it has no effect.
    """
    keep = dims or len(components)
    if keep > len(components):
        raise UserError("whitening", f"--dims {keep} exceeds the {len(components)} components of the file")
    axes = components[:keep].T.astype(np.float64)
    return Whitening(mean=mean.astype(np.float64), projection=axes * variance[:keep].astype(np.float64) ** -power)


def fit_supervised(
    vectors: Floats, pairs: npt.NDArray[np.int64], *, dims: int | None = None, subspace: int | None = None
) -> Whitening:
    """Fit the supervised whitening Lw from matching pairs (m, 2) of rows of (n, d): cirtorch's `whitenlearn`.

    m = mean over the first members only; S = mean of difference outer products; P = S^-1/2 by Cholesky with the
    smallest α of 0, 1e-10, 1e-9 ... that factors S + αI; then rotated to the eigenvectors of P(X-m)'s scatter.
    subspace: fit within that many principal axes, which a small number of pairs needs and the reference does not have.
    """
    if len(pairs) == 0 or pairs.min() < 0 or pairs.max() >= len(vectors):
        raise UserError("whitening pairs", "are empty or name rows that are not there", "give rows of the vectors")
    if subspace is not None:
        reduced = fit_pca(Moments.of(vectors), power=0.0, dims=min(subspace, vectors.shape[1]))
        inside = (vectors.astype(np.float64) - reduced.mean) @ reduced.projection
        learned = fit_supervised(inside.astype(np.float32), pairs, dims=dims)
        mean = reduced.mean + reduced.projection @ learned.mean
        return Whitening(mean=mean, projection=reduced.projection @ learned.projection)
    x = vectors.astype(np.float64)
    first = x[pairs[:, 0]]
    mean = first.mean(axis=0)
    difference = first - x[pairs[:, 1]]
    inverse = np.linalg.inv(_cholesky(difference.T @ difference / len(pairs)))
    projected = (x - mean) @ inverse.T
    values, rotation = np.linalg.eigh(projected.T @ projected)
    order = np.argsort(-values)[:dims]
    return Whitening(mean=mean, projection=inverse.T @ rotation[:, order])


def _cholesky(scatter: Doubles) -> Doubles:
    alpha = 0.0
    while True:
        try:
            return np.asarray(np.linalg.cholesky(scatter + alpha * np.eye(len(scatter))), dtype=np.float64)
        except np.linalg.LinAlgError:
            alpha = 1e-10 if alpha == 0.0 else alpha * 10
            if alpha > 1.0:
                raise UserError("whitening pairs", "give no usable scatter matrix", "give more pairs") from None
