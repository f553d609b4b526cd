"""Encoding: how the local descriptors of an image become one vector; fitted once, an artifact by digest ever after.

Beside whitening it is the other thing that is fitted from the collection. The arithmetic is in features/encode.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from threadpoolctl import threadpool_limits

from pipeline.core.errors import IntegrityError, UserError
from pipeline.core.extras import library
from pipeline.core.specs import Spec
from pipeline.core.types import Artifact, DescriptorBatch, Floats, Ints
from pipeline.features import mop
from pipeline.features.codebook import ROWS_PER_WORD, kmeans, principal_axes
from pipeline.features.encode import Mixture, asmk, assign, bow, direction, fisher, inverse_document_frequency, vlad

Method = Literal["bow", "vlad", "fisher", "asmk", "mop"]
MOST_DIM = 1 << 17
"""Longest vector of an encoding: 256 kB an image in float16."""


class EncodeSpec(Spec):
    """How local descriptors are encoded.

    words: of the codebook (components of the mixture for fisher). pca: dimensions that local descriptors are reduced
    to before, None for as they are. power: on counts, residuals or gradients; intra: VLAD words to unit length. keep:
    store the local descriptors beside the vector, for verification by geometry. The codebook is fitted from local
    descriptors drawn from the first `sample_shards` shards in a seeded order. mop: per patch size a codebook of `words`
    over `pca` dimensions, and a PCA of its VLAD to `level_dims`; the whole image's vector stays as it is.
    """

    method: Method
    words: int = Field(default=64, ge=2, le=1 << 16)
    pca: int | None = Field(default=None, ge=1)
    power: float = Field(default=0.5, gt=0, le=1)
    intra: bool = True
    keep: bool = False
    level_dims: int = Field(default=512, ge=1)
    sample_shards: int = Field(default=64, ge=1)
    seed: int = 0
    artifact: Artifact | None = None

    def dim(self, local: int) -> int:
        """Return the length of the vectors made of local descriptors of length `local`; UserError when too long.

        Of mop it is the most that the paper's two sizes of patches give: small samples support fewer axes.
        """
        if self.method == "mop":
            return local + 2 * self.level_dims
        inner = min(local, self.pca or local)
        found = {"bow": 1, "vlad": inner, "fisher": 2 * inner, "asmk": inner}[self.method] * self.words
        if found > MOST_DIM:
            raise UserError(f"encoding with {self.words} words", f"gives {found} dimensions", "use fewer words or pca")
        return found

    @property
    def settings(self) -> mop.Settings:
        """Return what mop's encoding takes."""
        return mop.Settings(**{field.name: getattr(self, field.name) for field in fields(mop.Settings)})

    @property
    def sample_rows(self) -> int:
        """How many local descriptors the codebook is fitted from."""
        return max(50_000, ROWS_PER_WORD * self.words)


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A fitted encoding. tensors: `mean` and `projection` where there is a PCA; `centroids`, `idf`, or the mixture."""

    spec: EncodeSpec
    tensors: dict[str, Floats]

    def reduce(self, x: Floats) -> Floats:
        """Return local descriptors (n, d) as the codebook takes them: rounded as they are stored, projected."""
        x = x.astype(np.float16).astype(np.float32)
        if "projection" not in self.tensors:
            return x
        mean = self.tensors["mean"]
        sizes = np.linalg.norm(x, axis=1) + np.linalg.norm(mean)
        return direction(np.asarray((x - mean) @ self.tensors["projection"], np.float32), sizes)

    def vector(self, x: Floats) -> Floats:
        """Return the vector of one image's local descriptors (n, d), n > 0."""
        spec, x = self.spec, self.reduce(x)
        if spec.method == "fisher":
            names = ("weights", "means", "variances")
            return fisher(x, Mixture(**{name: self.tensors[name] for name in names}), power=spec.power)
        centroids = self.tensors["centroids"]
        if spec.method == "bow":
            return bow(x, centroids, self.tensors["idf"], spec.power)
        if spec.method == "asmk":
            return asmk(x, centroids)
        return vlad(x, centroids, power=spec.power, intra=spec.intra)

    def of_image(self, batch: DescriptorBatch) -> Floats:
        """Return the vector of one image's local descriptors."""
        return (
            mop.vector(self.spec.settings, self.tensors, batch)
            if self.spec.method == "mop"
            else self.vector(batch.vectors)
        )

    def apply(self, batch: DescriptorBatch, images: int) -> DescriptorBatch:
        """Return one vector per image that has local descriptors; those that have none have no row."""
        rows, vectors = [], []
        for image in range(images):
            mine = batch.of(image)
            if len(mine.vectors):
                rows.append(image)
                vectors.append(self.of_image(mine))
        stacked = np.stack(vectors) if vectors else np.zeros((0, self.dim(batch.vectors.shape[1])), np.float32)
        return DescriptorBatch(
            vectors=stacked, image_row=np.array(rows, np.int64), local=batch if self.spec.keep else None
        )

    def dim(self, local: int) -> int:
        """Return the length of the vectors made of local descriptors of length `local`."""
        return mop.dim(self.tensors, local) if self.spec.method == "mop" else self.spec.dim(local)

    def quantisation_error(self, x: Floats) -> float:
        """Return the mean squared distance of local descriptors (n, d) to the nearest word, or mean of the mixture."""
        reduced = self.reduce(x)
        words = self.tensors["means" if self.spec.method == "fisher" else "centroids"]
        return float(((reduced - words[assign(reduced, words)]) ** 2).sum(axis=1).mean())

    def input_dim(self) -> int | None:
        """Return the length of the local descriptors that it takes; None for mop, which takes those of its patches."""
        if self.spec.method == "mop":
            return None
        if "projection" in self.tensors:
            return int(self.tensors["projection"].shape[0])
        return int(self.tensors["means" if self.spec.method == "fisher" else "centroids"].shape[1])

    def to_bytes(self) -> bytes:
        """Serialise the tensors as safetensors; the settings are the recipe's."""
        data: bytes = save_safetensors({name: np.ascontiguousarray(value) for name, value in self.tensors.items()})
        return data

    @staticmethod
    def from_bytes(spec: EncodeSpec, data: bytes) -> Encoder:
        """Read `to_bytes` back; the caller has verified the digest."""
        needed = {"bow": ("centroids", "idf"), "fisher": ("weights", "means", "variances"), "mop": ("levels",)}
        try:
            tensors = load_safetensors(data)
        except SafetensorError as error:
            raise IntegrityError("codebook", f"is no safetensors file ({error})") from None
        missing = [name for name in needed.get(spec.method, ("centroids",)) if name not in tensors]
        if missing:
            raise IntegrityError("codebook", f"lacks {', '.join(missing)}")
        return Encoder(spec=spec, tensors=tensors)


def fit_encoder(spec: EncodeSpec, sample: Floats, images: Callable[[], Iterable[DescriptorBatch]]) -> Encoder:
    """Fit PCA and codebook from local descriptors (n, d); images gives those of each sampled image, for bow and mop.

    One thread: the last bits of a product depend on how it is split. UserError when there are too few.
    """
    if len(sample) < spec.words:
        raise UserError(
            f"codebook of {spec.words} words", f"has {len(sample)} local descriptors to learn from", "use fewer words"
        )
    with threadpool_limits(1):
        if spec.method == "mop":
            return Encoder(spec=spec, tensors=mop.fit(spec.settings, list(images())))
        tensors: dict[str, Floats] = {}
        if spec.pca is not None:
            tensors["mean"], tensors["projection"] = principal_axes(sample, spec.pca)
        x = Encoder(spec=spec, tensors=tensors).reduce(sample)
        if spec.method == "fisher":
            tensors.update(_mixture(x, spec))
        else:
            tensors["centroids"] = kmeans(x, spec.words, spec.seed)
        if spec.method == "bow":
            tensors["idf"] = _idf(Encoder(spec=spec, tensors=tensors), images())
    return Encoder(spec=spec, tensors=tensors)


def _mixture(x: Floats, spec: EncodeSpec) -> dict[str, Floats]:
    mixture: Any = library("sklearn.mixture", "classical", "encoding fisher").GaussianMixture(
        spec.words, covariance_type="diag", random_state=spec.seed, max_iter=50, reg_covar=1e-5
    )
    import warnings

    with warnings.catch_warnings():
        # Fifty rounds are enough for an encoding, converged or not.
        warnings.simplefilter("ignore")
        mixture.fit(x)
    return {
        "weights": mixture.weights_.astype(np.float32),
        "means": mixture.means_.astype(np.float32),
        "variances": mixture.covariances_.astype(np.float32),
    }


def _idf(encoder: Encoder, images: Iterable[DescriptorBatch]) -> Floats:
    documents: Ints = np.zeros(encoder.spec.words, np.int64)
    count = 0
    for image in images:
        documents[np.unique(assign(encoder.reduce(image.vectors), encoder.tensors["centroids"]))] += 1
        count += 1
    return inverse_document_frequency(documents, count)
