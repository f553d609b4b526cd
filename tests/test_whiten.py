from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import IntegrityError, UserError
from pipeline.whiten import Moments, Whitening, fit_pca, fit_supervised, from_components


def sample(n: int = 200, d: int = 12, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(n, d)) @ generator.normal(size=(d, d)) + 1.0).astype(np.float32)


def gram(x: np.ndarray) -> np.ndarray:
    return np.asarray(x @ x.T)


def test_moments_merge_to_those_of_the_whole() -> None:
    x = sample()
    merged = Moments.merge([Moments.of(x[:50]), Moments.of(x[50:51]), Moments.of(x[51:])])
    whole = Moments.of(x)
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.product(), whole.product(), rtol=1e-12)


def test_moments_survive_their_file() -> None:
    moments = Moments.of(sample())
    again = Moments.from_bytes(moments.to_bytes())
    assert again.count == moments.count
    assert np.array_equal(again.product(), moments.product())


def test_pca_whitened_vectors_have_unit_covariance_before_normalising() -> None:
    x = sample(2000)
    whitening = fit_pca(Moments.of(x))
    y = (x.astype(np.float64) - whitening.mean) @ whitening.projection
    np.testing.assert_allclose(y.T @ y / len(x), np.eye(12), atol=1e-6)


def test_power_zero_is_a_rotation() -> None:
    whitening = fit_pca(Moments.of(sample()), power=0.0)
    np.testing.assert_allclose(whitening.projection.T @ whitening.projection, np.eye(12), atol=1e-10)


def test_fewer_images_than_dimensions_keep_only_supported_axes() -> None:
    whitening = fit_pca(Moments.of(sample(n=6, d=12)))
    assert whitening.dim == 5
    assert np.isfinite(whitening.apply(sample(n=6, d=12))).all()


def test_identical_images_cannot_be_whitened() -> None:
    with pytest.raises(UserError, match="same descriptor"):
        fit_pca(Moments.of(np.ones((10, 4), np.float32)))


def test_more_dimensions_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match="--dims 13"):
        fit_pca(Moments.of(sample()), dims=13)


def test_applied_vectors_have_unit_length_and_do_not_depend_on_the_batch() -> None:
    x = sample()
    whitening = fit_pca(Moments.of(x), dims=8)
    whole = whitening.apply(x)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1.0, atol=1e-6)
    single = np.concatenate([whitening.apply(x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_allclose(single, whole, atol=1e-7)


def test_a_whitening_of_another_length_is_refused() -> None:
    with pytest.raises(UserError, match="takes 12 dimensions, got 5"):
        fit_pca(Moments.of(sample())).apply(sample(d=5))


def test_a_whitening_survives_its_file_and_a_damaged_one_is_refused() -> None:
    whitening = fit_pca(Moments.of(sample()), dims=5)
    again = Whitening.from_bytes(whitening.to_bytes())
    assert np.array_equal(again.projection, whitening.projection)
    with pytest.raises(IntegrityError):
        Whitening.from_bytes(whitening.to_bytes()[:40])


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        Whitening(mean=np.zeros(2), projection=np.full((2, 2), np.nan))


def test_supervised_whitening_makes_pair_differences_isotropic() -> None:
    x = sample(400)
    pairs = np.stack([np.arange(0, 400, 2), np.arange(1, 400, 2)], axis=1)
    whitening = fit_supervised(x, pairs)
    difference = (x[pairs[:, 0]] - x[pairs[:, 1]]).astype(np.float64) @ whitening.projection
    np.testing.assert_allclose(difference.T @ difference / len(pairs), np.eye(12), atol=1e-6)


def test_a_subspace_of_full_rank_changes_nothing_and_a_smaller_one_limits_the_rank() -> None:
    x = sample(400)
    pairs = np.stack([np.arange(0, 400, 2), np.arange(1, 400, 2)], axis=1)
    np.testing.assert_allclose(
        gram(fit_supervised(x, pairs, subspace=12).apply(x)), gram(fit_supervised(x, pairs).apply(x)), atol=1e-3
    )
    assert np.linalg.matrix_rank(fit_supervised(x, pairs, subspace=5).projection) == 5


def test_pairs_outside_the_vectors_are_refused() -> None:
    with pytest.raises(UserError, match="pairs"):
        fit_supervised(sample(), np.array([[0, 900]]))


def test_pca_and_supervised_whitening_reproduce_the_reference_implementation(golden_data: Path) -> None:
    golden = np.load(golden_data / "whitening.npz", allow_pickle=False)
    x, x2 = golden["X"].T.astype(np.float32), golden["X2"].T.astype(np.float32)
    pairs = np.stack([golden["qidx"], golden["pidx"]], axis=1).astype(np.int64)
    for dims in (24, 8):
        pca = fit_pca(Moments.of(x), dims=dims).apply(x)
        np.testing.assert_allclose(gram(pca), golden[f"pca_gram_{dims}"], rtol=1e-4, atol=1e-5)
        supervised = fit_supervised(x2, pairs, dims=dims).apply(x2)
        np.testing.assert_allclose(gram(supervised), golden[f"lw_gram_{dims}"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fit_pca(Moments.of(x)).mean, golden["pca_m"][:, 0], rtol=1e-5)
    np.testing.assert_allclose(fit_supervised(x2, pairs).mean, golden["lw_m"][:, 0], rtol=1e-5)


def test_dir_whitening_reproduces_the_reference_implementation(golden_data: Path) -> None:
    golden = np.load(golden_data / "dir_whitening.npz", allow_pickle=False)
    checked = 0
    for power in (0.0, 0.25, 0.5):
        for dims in (None, 8):
            whitening = from_components(
                golden["mean"], golden["components"], golden["explained_variance"], power=power, dims=dims
            )
            ours = whitening.apply(golden["X"].astype(np.float32))
            np.testing.assert_allclose(ours, golden[f"whitenp{power}_whitenv{dims}"], rtol=1e-4, atol=1e-6)
            checked += 1
    assert checked == 6


def test_few_wide_vectors_are_whitened_like_any(monkeypatch: pytest.MonkeyPatch) -> None:
    x = sample(40, 60)
    plain = fit_pca(Moments.of(x), dims=20)
    monkeypatch.setattr("pipeline.whiten.WIDE", 10)
    parts = [Moments.of(x[:15]), Moments.from_bytes(Moments.of(x[15:]).to_bytes())]
    merged = Moments.merge(parts)
    assert merged.outer is None
    wide = fit_pca(merged, dims=20)
    np.testing.assert_allclose(wide.mean, plain.mean, atol=1e-9)
    np.testing.assert_allclose(wide.projection, plain.projection, rtol=1e-6, atol=1e-9)
    assert fit_pca(merged).dim == fit_pca(Moments.of(x)).dim == 39
    more = merged + Moments.of(sample(30, 60, seed=1))
    assert more.rows is None
    np.testing.assert_allclose(more.product(), (x.T @ x) + gram(sample(30, 60, seed=1).T), rtol=1e-4, atol=0.01)


def test_a_vector_that_is_the_mean_but_for_rounding_is_zero_and_not_a_direction_of_rounding() -> None:
    x = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    whitening = fit_pca(Moments.of(x))
    mean = whitening.mean.astype(np.float32)
    near = (mean + np.float32(1e-3)).astype(np.float32)
    made = whitening.apply(np.stack([mean, near, x[0]]))
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), [0, 1, 1], atol=1e-6)
