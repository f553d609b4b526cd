"""What is exported is read by who it is for: plain faiss, NumPy, pyarrow."""

from __future__ import annotations

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
from tests.builders import QUICK, images, run, write_files

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
