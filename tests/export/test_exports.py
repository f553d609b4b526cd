"""What is exported is read by who it is for: plain faiss, NumPy, pyarrow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.delete import EditOptions, delete
from jobs.export import FORMS, ExportOptions, export, lines
from jobs.recipe import RecipeOptions
from pipeline.core.errors import UserError
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.sources._detect import detect
from tests.builders import QUICK, images, run, write_files, write_parquet

ALL = RecipeOptions(**{**vars(QUICK), "indexes": ("flat", "ivfpq", "lsh", "hnsw")})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    source = write_files(tmp_path / "src", images(30))
    run(source, tmp_path / "root", recipe=ALL, files=7)
    delete(EditOptions(root=str(tmp_path / "root"), keys=("0004.jpg", "0020.jpg")))
    return tmp_path / "root"


@pytest.mark.parametrize("kind", ["flat", "ivfpq", "lsh", "hnsw"])
def test_plain_faiss_reads_one_index_and_its_names(root: Path, tmp_path: Path, kind: str) -> None:
    told = export(ExportOptions(root=str(root), target=str(tmp_path / "out"), index=kind))
    assert (told["images"], told["index"]) == (28, kind)
    assert kind in lines(told)[0]
    theirs = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    names = pq.read_table(tmp_path / "out" / "names.parquet").to_pydict()
    assert theirs.ntotal == len(names["key"]) == 28
    assert not {"0004.jpg", "0020.jpg"} & set(names["key"])
    with SearchIndex.open(str(root)) as index:
        live = index.live()
        queries = index.stored.vectors(live.file[:5], live.row[:5])
        ours = index.search(queries, SearchOptions(k=5, index=kind, rerank=0))
    _, ids = theirs.search(queries, 5)
    found = [[names["key"][row] for row in mine] for mine in ids]
    assert [mine[0] for mine in found] == [hits[0].key for hits in ours]
    if kind == "flat":
        assert found == [[hit.key for hit in hits] for hits in ours]


def test_numpy_reads_a_matrix_that_comes_back_as_a_source(root: Path, tmp_path: Path) -> None:
    export(ExportOptions(root=str(root), target=str(tmp_path / "out"), form="npy"))
    matrix = np.load(tmp_path / "out" / "X.npy")
    keys = (tmp_path / "out" / "X.txt").read_text().splitlines()
    assert (matrix.shape, len(keys)) == ((28, 512), 28)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[extractor]\nkind = "precomputed"\ndim = 512\n[indexes.flat]\n')
    report = run(tmp_path / "out", tmp_path / "again", recipe=RecipeOptions(recipe=str(recipe), source_kind="npy"))
    assert report.images["indexed"] == 28
    with SearchIndex.open(str(tmp_path / "again")) as index:
        unit = matrix[3:4] / np.linalg.norm(matrix[3])
        assert index.search(unit, SearchOptions(k=1))[0][0].key == f"X.npy/{keys[3]}"


def test_an_exported_matrix_is_indexed_again_by_the_recipe_beside_it(tmp_path: Path) -> None:
    files = dict(zip(["a b.jpg", " a b.jpg", "a b.jpg ", "two\nlines.jpg", "ü.jpg"], images(5).values(), strict=True))
    source, out = write_files(tmp_path / "src", files), tmp_path / "out"
    run(source, tmp_path / "root", recipe=replace(ALL, indexes=("flat", "lsh"), match="*"))
    export(ExportOptions(root=str(tmp_path / "root"), target=str(out), form="npy"))
    again = tmp_path / "again"
    report = run(out, again, recipe=RecipeOptions(recipe=str(out / "recipe.toml")))
    assert (report.images["indexed"], report.images["duplicates"]) == (5, 0)
    assert [spec.kind for spec in report.recipe.indexes] == ["flat", "lsh"]
    assert not run(out, again, recipe=RecipeOptions()).published
    with SearchIndex.open(str(tmp_path / "root")) as first, SearchIndex.open(str(again)) as second:
        live = first.live()
        keys = [name.key for name in first.stored.names(live.file, live.row)]
        theirs = second.live()
        assert len({name.key for name in second.stored.names(theirs.file, theirs.row)}) == 5
        np.testing.assert_allclose(
            second.stored.vectors(theirs.file, theirs.row), first.stored.vectors(live.file, live.row), atol=1e-3
        )
    assert sorted(keys) == sorted(files)


def test_the_kind_of_an_exported_matrix_is_detected(root: Path, tmp_path: Path) -> None:
    export(ExportOptions(root=str(root), target=str(tmp_path / "out"), form="npy"))
    assert detect(str(tmp_path / "out")) == "npy"
    np.save(tmp_path / "Y.npy", np.zeros((1, 2)))
    write_parquet(tmp_path / "rows.parquet", images(1))
    write_parquet(tmp_path / "names.parquet", images(1))
    with pytest.raises(UserError, match="--source-kind"):
        detect(str(tmp_path))


def test_what_cannot_be_exported_is_said(root: Path, tmp_path: Path) -> None:
    taken = write_files(tmp_path / "taken", {"x": b""})
    with pytest.raises(UserError, match="not empty"):
        export(ExportOptions(root=str(root), target=str(taken)))
    with pytest.raises(UserError, match="choose one of"):
        export(ExportOptions(root=str(root), target=str(tmp_path / "out"), form="nothing"))
    with pytest.raises(UserError, match="kdtree"):
        export(ExportOptions(root=str(root), target=str(tmp_path / "out"), index="kdtree"))
    assert not (tmp_path / "out").exists()
    assert set(FORMS) == {"faiss", "npy", "hloc", "kapture", "hf"}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_local_descriptors_and_empty_snapshots_are_refused(tmp_path: Path, form: str) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[extractor]\nkind = "sift"\nfeatures = 10\n[indexes.flat]\n')
    source = write_files(tmp_path / "src", images(3))
    run(source, tmp_path / "local", recipe=RecipeOptions(recipe=str(recipe)))
    with pytest.raises(UserError, match="is of global descriptors, this snapshot has local ones"):
        export(ExportOptions(root=str(tmp_path / "local"), target=str(tmp_path / "out"), form=form))
    run(source, tmp_path / "root")
    delete(EditOptions(root=str(tmp_path / "root"), keys=("0000.jpg", "0001.jpg", "0002.jpg")))
    if form != "faiss":
        with pytest.raises(UserError, match="would be empty"):
            export(ExportOptions(root=str(tmp_path / "root"), target=str(tmp_path / "out"), form=form))
    assert not (tmp_path / "out").exists()
