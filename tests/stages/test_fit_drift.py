"""Drift of whitening and codebook: what is measured, when it is said, and that fitting again mends it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.fits import drifted_indexes
from jobs.index_report import index_json, index_lines
from jobs.output import status_lines
from jobs.recipe import RecipeOptions
from jobs.status import status
from pipeline.core.errors import UserError
from pipeline.core.local import LocalStore
from pipeline.core.types import Floats
from pipeline.publish.catalog import Catalog
from pipeline.publish.snapshot import Fitness, Health
from pipeline.stages.fit_drift import judged_fits, spread
from pipeline.whiten import Moments, fit_pca
from tests.builders import QUICK, images, run, write_files


def vectors(n: int, d: int, seed: int, offset: float = 0.0) -> Floats:
    """Correlated vectors; an offset makes them another distribution."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(d, d))
    return (generator.normal(size=(n, d)) @ mixing + offset).astype(np.float32)


@pytest.mark.parametrize("power", [0.5, 0.25])
def test_a_whitening_suits_what_it_was_fitted_from_and_not_another_distribution(power: float) -> None:
    whitening = fit_pca(Moments.of(vectors(2000, 16, 0)), power=power)
    fit, same = (spread(whitening.apply(vectors(1000, 16, seed))) for seed in (1, 2))
    assert abs(fit["mean_cosine"]) < 0.01
    assert fit["evenness"] == pytest.approx(same["evenness"], rel=0.05)
    assert not judged(fit, same)
    moved = spread(whitening.apply(vectors(1000, 16, 3, offset=4.0)))
    assert any("mean cosine" in line for line in judged(fit, moved))
    flat = vectors(1000, 16, 4) * np.array([9.0] * 2 + [0.1] * 14, np.float32)
    assert any("evenness" in line for line in judged(fit, spread(whitening.apply(flat))))


def test_the_mean_cosine_is_that_of_all_pairs() -> None:
    x = vectors(40, 8, 5, offset=1.0)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = (unit @ unit.T)[~np.eye(40, dtype=bool)]
    assert spread(x)["mean_cosine"] == pytest.approx(pairs.mean(), abs=1e-6)


def judged(first: dict[str, float], now: dict[str, float], rows: tuple[int, int] = (1000, 1000)) -> tuple[str, ...]:
    then = Health(trained="a", rows=rows[0], values=first)
    before = (Fitness(kind="whitening", trained=then, now=then),)
    (fit,) = judged_fits({"whitening": Health(trained="a", rows=rows[1], values=now)}, before)
    assert not drifted_indexes((fit,)), "no index is trained again for a fit"
    return fit.drifted


def test_a_small_sample_is_said_once_the_collection_has_grown() -> None:
    values = {"mean_cosine": 0.0, "evenness": 1.0, "dimensions": 64.0}
    assert judged(values, values, (100, 400)) == ("fitted when there were 100 vectors for 64 dimensions, now 400",)
    assert judged(values, values, (100, 300)) == ()
    assert judged(values, values, (640, 6400)) == ()
    # Where there were too few to measure at first, their number still counts.
    assert judged({}, values, (12, 400)) == ("fitted when there were 12 vectors for 64 dimensions, now 400",)


def test_a_whitening_of_a_few_images_warns_drifts_and_is_fitted_again(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(12)), tmp_path / "root"
    first = run(source, root, recipe=replace(QUICK, whiten="pca", dims=8))
    assert "12 descriptors, fewer than 10 for each of its 8 dimensions" in first.warnings[0]
    assert index_json(first)["warnings"] == list(first.warnings)
    assert any(line.startswith("warning: the whitening") for line in index_lines(first, dry_run=False))
    write_files(source, images(88, start=12))
    second = run(source, root, recipe=RecipeOptions())
    assert second.recipe == first.recipe
    assert "fitted when there were 12 vectors" in second.drifted["whitening"][0]
    assert any("--refit" in line for line in index_lines(second, dry_run=False))
    assert any("--refit" in line for line in status_lines(status(str(root))))
    assert not run(source, root, recipe=RecipeOptions()).published, "drift of a fit alone runs nothing"
    third = run(source, root, recipe=RecipeOptions(), refit=True)
    assert third.recipe.declared == first.recipe.declared
    assert third.recipe.whiten != first.recipe.whiten
    assert (third.images["indexed"], third.warnings, third.drifted) == (100, (), {})
    assert third.extracted_again == 100


def test_dimensions_that_the_decoded_images_do_not_support_are_refused_before_all_are_extracted(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", {**images(6), "x.jpg": b"no image", "y.jpg": b"no image"})
    root = tmp_path / "root"
    with pytest.raises(UserError, match="--dims 6: cannot be fitted: the sample of 6 images supports 5 dimensions"):
        run(source, root, recipe=replace(QUICK, whiten="pca", dims=6))
    assert Catalog(LocalStore(str(root))).head() is None


def test_a_codebook_is_measured_by_its_quantisation_error_where_local_descriptors_are_kept(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(
        '[extractor]\nkind = "sift"\nresize = "longest:64"\n'
        '[encode]\nmethod = "vlad"\nwords = 4\nkeep = true\n[indexes.flat]\n'
    )
    source, root = write_files(tmp_path / "src", images(70)), tmp_path / "root"
    run(source, root, recipe=RecipeOptions(recipe=str(tmp_path / "r.toml")), files=16)
    (fit,) = Catalog(LocalStore(str(root))).require_head().fitness
    assert fit.kind == "codebook"
    assert 0 < fit.now.values["quantisation_error"] < 2
    assert status(str(root))["fits"]["codebook"]["drifted"] == []
