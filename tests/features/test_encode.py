"""Encodings against slow versions written out, and against scikit-image and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.mixture import GaussianMixture

from pipeline.core.types import DescriptorBatch, Floats
from pipeline.features.codebook import kmeans, principal_axes
from pipeline.features.encode import (
    Mixture,
    asmk,
    assign,
    bow,
    direction,
    fisher,
    inverse_document_frequency,
    vlad,
)
from pipeline.features.mop import Settings, dim, fit, vector


def drawn(n: int, d: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_words_are_the_nearest_centroids() -> None:
    x, centroids = drawn(200, 8), drawn(10, 8, 1)
    expected = [min(range(10), key=lambda word: float(((row - centroids[word]) ** 2).sum())) for row in x]
    assert assign(x, centroids).tolist() == expected


def test_bow_is_scikit_learns_tfidf() -> None:
    centroids = drawn(12, 4, 1)
    images = [drawn(30, 4, seed) for seed in range(2, 8)]
    counts = np.stack([np.bincount(assign(x, centroids), minlength=12) for x in images])
    idf = inverse_document_frequency((counts > 0).sum(axis=0), len(images))
    expected = TfidfTransformer(smooth_idf=True).fit_transform(counts).toarray()
    np.testing.assert_allclose(np.stack([bow(x, centroids, idf) for x in images]), expected, atol=1e-6)


@pytest.mark.parametrize("intra", [True, False])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_vlad_is_the_sum_of_residuals(intra: bool, power: float) -> None:
    x, centroids = drawn(50, 6), drawn(5, 6, 1)
    expected = np.zeros((5, 6))
    for row in x:
        word = int(((row - centroids) ** 2).sum(axis=1).argmin())
        expected[word] += row - centroids[word]
    expected = np.sign(expected) * np.abs(expected) ** power
    if intra:
        expected = expected / np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
    expected = expected.reshape(-1) / np.linalg.norm(expected)
    np.testing.assert_allclose(vlad(x, centroids, power=power, intra=intra), expected, atol=1e-5)


def test_fisher_is_scikit_images_without_the_gradient_of_weights() -> None:
    from skimage.feature import fisher_vector

    gmm = GaussianMixture(4, covariance_type="diag", random_state=0).fit(drawn(500, 6))
    x = drawn(40, 6, 2)
    theirs = fisher_vector(x, gmm, improved=False)[4:]
    theirs = np.sign(theirs) * np.abs(theirs) ** 0.5
    mixture = Mixture(
        weights=gmm.weights_.astype(np.float32),
        means=gmm.means_.astype(np.float32),
        variances=gmm.covariances_.astype(np.float32),
    )
    np.testing.assert_allclose(fisher(x, mixture), theirs / np.linalg.norm(theirs), atol=1e-4)
    np.testing.assert_allclose(mixture.posteriors(x.astype(np.float64)), gmm.predict_proba(x), atol=1e-4)


def test_asmk_compares_the_signs_of_shared_words() -> None:
    centroids = drawn(6, 8, 1)
    a, b = drawn(12, 8, 2), drawn(9, 8, 3)

    def words(x: Floats) -> dict[int, Floats]:
        nearest = assign(x, centroids)
        return {w: np.where((x[nearest == w] - centroids[w]).sum(axis=0) >= 0, 1.0, -1.0) for w in set(nearest)}

    left, right = words(a), words(b)
    shared = [float(left[w] @ right[w]) / 8 for w in left.keys() & right.keys()]
    norm = np.sqrt(len(left) * len(right))
    assert float(asmk(a, centroids) @ asmk(b, centroids)) == pytest.approx(sum(shared) / norm, abs=1e-5)


def test_principal_axes_are_the_same_by_either_way() -> None:
    x = drawn(40, 60) * np.linspace(3, 0.1, 60, dtype=np.float32)
    mean, few = principal_axes(x, 10)
    _, many = principal_axes(np.concatenate([x, x]), 10)
    np.testing.assert_allclose(mean, x.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(few, many, atol=1e-4)
    np.testing.assert_allclose(few.T @ few, np.eye(10), atol=1e-5)


def test_kmeans_repeats_itself_and_finds_clusters() -> None:
    centres = drawn(5, 4, 1) * 10
    x = (centres[np.arange(500) % 5] + drawn(500, 4, 2)).astype(np.float32)
    found = kmeans(x, 5, 0)
    np.testing.assert_array_equal(found, kmeans(x, 5, 0))
    assert all(np.linalg.norm(found - centre, axis=1).min() < 1 for centre in centres)


def test_mop_puts_levels_one_after_another() -> None:
    def image(seed: int) -> DescriptorBatch:
        sizes = np.repeat(np.array([64, 32, 16], np.float32), [1, 9, 25])
        boxes = np.zeros((35, 4), np.float32)
        x = drawn(35, 12, seed)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        return DescriptorBatch(
            vectors=x, image_row=np.zeros(35, np.int64), boxes=boxes, scales=sizes, scores=np.ones(35, np.float32)
        )

    images = [image(seed) for seed in range(30)]
    settings = Settings(words=4, pca=8, power=0.5, intra=True, level_dims=10, seed=0)
    tensors = fit(settings, images)
    found = vector(settings, tensors, images[3])
    assert found.shape == (dim(tensors, 12),) == (12 + 10 + 10,)
    assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-5)
    parts = np.split(found, [12, 22])
    assert [np.linalg.norm(part) for part in parts] == pytest.approx([3**-0.5] * 3, abs=1e-3)
    np.testing.assert_allclose(parts[0] * 3**0.5, images[3].vectors[0], atol=1e-2)


def rounded(centroids: Floats) -> Floats:
    """Descriptors that are some centroids, but for the last bit."""
    return np.nextafter(centroids, np.float32(np.inf)).astype(np.float32)


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("intra", [True, False])
def test_a_word_of_rounding_noise_is_no_word(power: float, intra: bool) -> None:
    centroids = drawn(5, 6, 1)
    far = centroids[2] + drawn(3, 6, 2) / 10
    x = np.concatenate([rounded(centroids[:2]), far]).astype(np.float32)
    words = vlad(x, centroids, power=power, intra=intra).reshape(5, 6)
    assert np.flatnonzero(words.any(axis=1)).tolist() == [2]
    np.testing.assert_allclose(words, vlad(far, centroids, power=power, intra=intra).reshape(5, 6), atol=1e-6)
    assert np.flatnonzero(asmk(x, centroids).reshape(5, 6).any(axis=1)).tolist() == [2]


def test_descriptors_that_are_their_centroids_make_a_zero_vector() -> None:
    centroids = drawn(5, 6, 1)
    assert not vlad(rounded(centroids), centroids).any()
    assert not asmk(rounded(centroids), centroids).any()


def test_a_small_residual_that_is_no_rounding_keeps_its_word() -> None:
    centroids = drawn(5, 6, 1)
    x = centroids[:1] * np.float32(1 + 1e-4)
    assert np.linalg.norm(vlad(x, centroids)) == pytest.approx(1)


def test_a_difference_of_equal_vectors_has_no_direction() -> None:
    x = drawn(3, 6)
    differences = np.stack([rounded(x[:1])[0] - x[0], x[1] * np.float32(1e-3), x[2]])
    lengths = np.linalg.norm(direction(differences, 2 * np.linalg.norm(x, axis=1)), axis=1)
    np.testing.assert_allclose(lengths, [0, 1, 1], atol=1e-6)
