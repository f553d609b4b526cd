"""What another recipe means for a ROOT: what is extracted anew, what is kept, what takes over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from jobs.index import IndexOptions, run_index
from jobs.progress import Reporter
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
