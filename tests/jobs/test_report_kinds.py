"""Reports of ROOTs that are made otherwise: local descriptors, vectors without images, codes, other indexes, tar."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jobs import report_samples
from jobs.recipe import RecipeOptions
from tests.builders import QUICK, images, run, tar_bytes, write_files
from tests.integration.test_local import KEPT, LOCAL, recipe, textures
from tests.jobs.test_report import written

PRECOMPUTED = '[extractor]\nkind = "precomputed"\ndim = 24\n[indexes.flat]\n[indexes.lsh]\n'


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Time few settings, each by its least number of queries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_samples, "SECONDS", 0.0)
        patch.setattr(report_samples, "STEPS", (1, 4))
        yield


def test_of_local_descriptors_what_is_told_of_whole_images_is_left_out(tmp_path: Path) -> None:
    run(write_files(tmp_path / "src", textures(10)), tmp_path / "root", recipe=recipe(tmp_path, LOCAL), files=4)
    told, page = written(tmp_path / "root", tmp_path / "report.html", samples=3)
    assert set(told["left_out"]) == {"duplicates", "curves"}
    assert told["health"]["vectors"] > 100
    assert (told["health"]["dimensions"], told["health"]["skewness"]) == (128, None)
    assert "These are local descriptors, several of an image" in page.words
    shown = [p.attributes["alt"] for p in page.of("img") if p.attributes["alt"].startswith("query ")]
    assert len(shown) == 3, shown
    assert len([p for p in page.of("img") if p.attributes["alt"].startswith("result ")]) == 3 * report_samples.HITS


def test_encoded_local_descriptors_have_everything(tmp_path: Path) -> None:
    options = recipe(tmp_path, KEPT.format("vlad", 2))
    run(write_files(tmp_path / "src", textures(34)), tmp_path / "root", recipe=options, files=12)
    told, page = written(tmp_path / "root", tmp_path / "report.html", samples=2)
    assert told["left_out"] == {}
    assert "Encoding vlad over 2 words" in page.words


def test_vectors_without_images_have_placeholders(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    np.save(tmp_path / "src" / "x.npy", np.random.default_rng(0).normal(size=(40, 24)).astype(np.float32))
    run(tmp_path / "src", tmp_path / "root", recipe=recipe(tmp_path, PRECOMPUTED))
    told, page = written(tmp_path / "root", tmp_path / "report.html", samples=2)
    assert told["left_out"] == {}
    assert not page.of("img")
    assert "no picture" in page.words
    assert "pictures could not be had: " in page.words
    assert "x.npy/0000000" in page.words


@pytest.mark.parametrize(
    "more",
    [
        {"dtype": "binary", "whiten": "pca", "dims": 8, "indexes": ("binary",)},
        {"indexes": ("hnsw", "lsh")},
        {"whiten": "pca", "dims": 8, "indexes": ("flat", "ivfpq")},
    ],
    ids=["codes", "graph", "whitened"],
)
def test_other_kinds_in_tar_shards_have_everything(tmp_path: Path, more: dict[str, object]) -> None:
    source = write_files(tmp_path / "src", {"a.tar": tar_bytes(images(20)), "b.tar": tar_bytes(images(20, start=20))})
    run(source, tmp_path / "root", recipe=RecipeOptions(**{**vars(QUICK), **more}))
    told, page = written(tmp_path / "root", tmp_path / "report.html", samples=2)
    assert told["left_out"] == {}
    kinds = {row["index"] for row in told["recall"]}
    assert kinds == set(more["indexes"])  # type: ignore[call-overload]
    assert len(page.of("img")) >= 2 + 2 * report_samples.HITS
    if "ivfpq" in kinds:
        assert "PCA, 8 axes, eigenvalues to the power of 0.5" in page.words
        assert "Lists of ivfpq" in page.words
