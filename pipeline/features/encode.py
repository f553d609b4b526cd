"""Encodings: the local descriptors of one image (n, d) to one vector. Pure arithmetic over a codebook.

Bag of words with TF-IDF (Sivic, Zisserman, 2003), VLAD (Jégou et al., 2010; intra-normalisation: Arandjelović,
Zisserman, 2013), Fisher vectors (Perronnin, Dance, 2007; Perronnin et al., 2010), and the binary aggregated residuals
of ASMK* (Tolias, Avrithis, Jégou, 2013). All are float32 and of unit length, or zero where nothing is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.types import Floats, Ints

_TINY = 1e-12
NOISE = 8 * float(np.finfo(np.float32).eps)
"""Share of what was subtracted below which a difference in float32 is rounding: it has no direction."""


def unit(vectors: npt.NDArray[Any]) -> Floats:
    """Return vectors (..., d) divided by their length; zero stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, _TINY), dtype=np.float32)


def direction(differences: npt.NDArray[Any], sizes: npt.NDArray[Any]) -> Floats:
    """Return differences (..., d) divided by their length; zero where they are rounding noise of values of `sizes`."""
    return unit(_above_noise(differences, sizes))


def _above_noise(differences: npt.NDArray[Any], sizes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return differences (..., d), zero where no longer than rounding makes those of values of `sizes` (...)."""
    lengths = np.linalg.norm(differences, axis=-1)
    return np.where(np.expand_dims(lengths <= NOISE * sizes, -1), 0, differences)


def signed_power(vectors: Floats, power: float) -> Floats:
    """Return sign(x) |x|^power."""
    return np.asarray(np.sign(vectors) * np.abs(vectors) ** power, dtype=np.float32)


def assign(x: Floats, centroids: Floats) -> Ints:
    """Return the nearest centroid (n,) of each vector (n, d), by Euclidean distance; the first wins ties."""
    # |x - c|² without |x|², which is the same for all centroids.
    distance = (centroids**2).sum(axis=1) - 2 * (x @ centroids.T)
    return np.asarray(distance.argmin(axis=1), dtype=np.int64)


def bow(x: Floats, centroids: Floats, idf: Floats, power: float = 1.0) -> Floats:
    """Return the bag of words (k,): counts^power times idf, L2."""
    counts = np.bincount(assign(x, centroids), minlength=len(centroids)).astype(np.float32)
    return unit(counts**power * idf)


def inverse_document_frequency(documents: Ints, images: int) -> Floats:
    """Return 1 + log((1 + N) / (1 + n_w)) for words that occur in n_w of N images, scikit-learn's smooth form.

    It is finite for a word that was never seen, and 1 for one that is in every image, so that no image is like nothing.
    """
    return np.asarray(1.0 + np.log((1.0 + images) / (1.0 + documents)), dtype=np.float32)


def residuals(x: Floats, centroids: Floats) -> Floats:
    """Return the summed residuals (k, d) of the descriptors that each centroid is nearest to.

    A word whose descriptors are its centroid, but for rounding, has the residual zero: a power, a sign or a length of
    its own (intra) would make a full word of the rounding.
    """
    nearest = assign(x, centroids)
    sums = np.zeros_like(centroids, dtype=np.float32)
    np.add.at(sums, nearest, x - centroids[nearest])
    sizes = np.linalg.norm(x, axis=1) + np.linalg.norm(centroids[nearest], axis=1)
    total = np.bincount(nearest, sizes, minlength=len(centroids))
    return np.asarray(_above_noise(sums, total), np.float32)


def vlad(x: Floats, centroids: Floats, *, power: float = 0.5, intra: bool = True) -> Floats:
    """Return the VLAD (k·d,): summed residuals, signed power, each word to unit length (intra), L2."""
    sums = signed_power(residuals(x, centroids), power)
    return unit((unit(sums) if intra else sums).reshape(-1))


def asmk(x: Floats, centroids: Floats) -> Floats:
    """Return ASMK*'s representation (k·d,): the signs of each word's summed residuals; zero where there are none. L2.

    The inner product of two is Σ over shared words of 1 - 2 Hamming / d, over √(words · words): the kernel with a
    linear selectivity, where the paper's raises the similarity of each word to a power.
    """
    sums = residuals(x, centroids)
    seen = np.asarray(sums.any(axis=1))
    signs = np.where(sums >= 0, np.float32(1), np.float32(-1)) * seen[:, None]
    return unit(signs.reshape(-1))


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A Gaussian mixture with diagonal covariances: weights (k,), means (k, d), variances (k, d)."""

    weights: Floats
    means: Floats
    variances: Floats

    def posteriors(self, x: Floats) -> Floats:
        """Return p(component | descriptor), (n, k)."""
        precision = 1.0 / self.variances
        square = x**2 @ precision.T - 2 * x @ (self.means * precision).T + (self.means**2 * precision).sum(axis=1)
        log = np.log(self.weights) - 0.5 * (np.log(2 * np.pi * self.variances).sum(axis=1) + square)
        log -= log.max(axis=1, keepdims=True)
        shares = np.exp(log)
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def fisher(x: Floats, mixture: Mixture, *, power: float = 0.5) -> Floats:
    """Return the improved Fisher vector (2·k·d,): gradients by means, then by deviations; signed power, L2.

    The gradient by weights is left out, as in the improved form; signs and order are scikit-image's `fisher_vector`.
    """
    x = x.astype(np.float64)
    p = mixture.posteriors(x)
    n, mean, variance = len(x), mixture.means.astype(np.float64), mixture.variances.astype(np.float64)
    zero = p.mean(axis=0)[:, None]
    first, second = p.T @ x / n, p.T @ x**2 / n
    root = np.sqrt(mixture.weights.astype(np.float64))[:, None]
    to_mean = _above_noise(first - zero * mean, np.linalg.norm(np.abs(first) + zero * np.abs(mean), axis=1))
    by_mean = to_mean / (root * np.sqrt(variance))
    by_deviation = (-second - zero * mean**2 + zero * variance + 2 * first * mean) / (np.sqrt(2.0) * root * variance)
    whole = np.concatenate([by_mean.reshape(-1), by_deviation.reshape(-1)])
    return unit(signed_power(whole.astype(np.float32), power))
