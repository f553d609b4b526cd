"""What another recipe means for a ROOT: what is extracted anew, what is kept, what takes over."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from jobs.index import IndexOptions, run_index
from jobs.index_report import index_json, index_lines
from jobs.progress import Reporter
from jobs.recipe import RecipeOptions
from pipeline.core.local import LocalStore
from pipeline.publish.catalog import Catalog
from pipeline.search.engine import SearchIndex
from pipeline.table import DescriptorReader
from tests.builders import QUICK, images, run, write_files
from tests.integration.test_incremental import descriptors_read, live_keys


def test_adding_an_index_kind_extracts_nothing_anew(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(6)), tmp_path / "root"
    run(source, root)
    files = descriptors_read(root)
    report = run(source, root, recipe=replace(QUICK, indexes=("flat", "lsh")))
    assert (report.snapshot, report.images["added"]) == (2, 0)
    assert descriptors_read(root) == files
    assert live_keys(root, "lsh") == sorted(images(6))


def test_what_is_not_said_is_as_in_the_head(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(6)), tmp_path / "root"
    run(source, root, recipe=replace(QUICK, whiten="pca", dims=3, pooling="mac"))
    write_files(source, images(1, start=30))
    options = IndexOptions(source=str(source), root=str(root))
    report = run_index(options, Reporter())
    assert (report.images["added"], report.images["indexed"]) == (1, 7)
    head = Catalog(LocalStore(str(root))).require_head().recipe
    assert head.whiten is not None
    assert head.whiten.dims == 3


def test_a_new_recipe_builds_beside_the_served_one_and_takes_over(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(6)), tmp_path / "root"
    run(source, root)
    report = run(source, root, recipe=replace(QUICK, pooling="spoc"))
    assert (report.snapshot, report.images["added"]) == (2, 6)
    assert live_keys(root) == sorted(images(6))
    with SearchIndex.open(str(root), version=1) as old:
        assert old.images == 6


def test_whitening_is_fitted_once_and_kept(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(9)), tmp_path / "root"
    whitened = replace(QUICK, whiten="pca", dims=4)
    run(source, root, recipe=whitened)
    first = Catalog(LocalStore(str(root))).require_head()
    write_files(source, images(5, start=40))
    run(source, root, recipe=whitened)
    second = Catalog(LocalStore(str(root))).require_head()
    assert second.recipe == first.recipe
    assert second.summary.images == 14
    files = list((root / "descriptors" / first.recipe.descriptor_id).glob("*.parquet"))
    assert {DescriptorReader(path).dim for path in files} == {4}


AGAIN = (
    RecipeOptions(pooling="gem", gem_p=3.0, scales=(1.0,), precision="fp32", decoding="full"),
    RecipeOptions(backbone="squeezenet1_1"),
    RecipeOptions(weights="random:0", resize="longest:64", dtype="float16"),
    RecipeOptions(indexes=("lsh", "flat")),
    RecipeOptions(whiten="pca", whiten_power=0.5),
    RecipeOptions(dims=4, source_kind="folder"),
    RecipeOptions(recipe="RECIPE"),
    RecipeOptions(recipe="RECIPE", dims=4, match="*.jpg"),
)


def test_a_rerun_that_names_its_options_again_publishes_nothing(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(8)), tmp_path / "root"
    file = tmp_path / "r.toml"
    file.write_text('[extractor]\nkind = "pooled"\nresize = "longest:32"\n[indexes.flat]\n[indexes.lsh]\n')
    first = replace(QUICK, recipe=str(file), whiten="pca", dims=4, indexes=None, match="*.jpg")
    published = run(source, root, recipe=first)
    files = descriptors_read(root)
    for options in (first, *AGAIN):
        named = replace(options, recipe=str(file)) if options.recipe is not None else options
        report = run(source, root, recipe=named)
        assert (report.published, report.snapshot, report.changes) == (False, 1, ()), options
    assert published.recipe == Catalog(LocalStore(str(root))).require_head().recipe
    assert descriptors_read(root) == files


def test_a_run_says_what_it_changes_and_what_that_costs_before_it_reads(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(6)), tmp_path / "root"
    run(source, root)
    options = IndexOptions(source=str(source), root=str(root), recipe=RecipeOptions(resize="longest:32"))
    said = io.StringIO()
    planned = run_index(replace(options, dry_run=True, trial_seconds=0), Reporter(io.StringIO()))
    report = run_index(options, Reporter(said))
    lines = said.getvalue().splitlines()
    changed = next(number for number, line in enumerate(lines) if "extractor.resize longest:64 -> longest:32" in line)
    assert "changes the descriptors: all 6 images are extracted again" in lines[changed + 1]
    assert "plan: " in "".join(lines[changed + 2 :])
    assert any(
        "recipe: extractor.resize longest:64 -> longest:32" in line for line in index_lines(planned, dry_run=True)
    )
    assert index_json(report)["recipe_changes"] == [
        {"setting": "extractor.resize", "before": "longest:64", "after": "longest:32"}
    ]
    assert index_json(report)["extracted_again"] == 6
    assert report.recipe.whiten is None


def learned(path: Path, dim: int, seed: int = 0) -> str:
    """A learned whitening as cirtorch writes it."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
    torch.save({"m": np.zeros((dim, 1), "f4"), "P": turn.astype("f4")}, path)
    return str(path)


def test_a_whitening_from_a_file_goes_on_when_another_setting_changes(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(6)), tmp_path / "root"
    whiten = learned(tmp_path / "learned.pth", 512)
    first = run(source, root, recipe=replace(QUICK, whiten=whiten, dims=4))
    second = run(source, root, recipe=RecipeOptions(resize="longest:32"))
    assert second.published
    assert second.recipe.whiten == first.recipe.whiten


def test_a_fitted_whitening_is_fitted_again_for_another_extractor(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(8)), tmp_path / "root"
    first = run(source, root, recipe=replace(QUICK, whiten="pca", dims=4))
    second = run(source, root, recipe=RecipeOptions(resize="longest:32"))
    assert first.recipe.whiten is not None
    assert second.recipe.whiten is not None
    assert second.recipe.whiten.artifact != first.recipe.whiten.artifact
    assert second.recipe.declared.whiten == first.recipe.declared.whiten
    assert "recipe: whiten.artifact" in "\n".join(map(str, second.changes))
