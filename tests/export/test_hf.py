"""What Hugging Face datasets opens: the folder, the index beside it, and the nearest examples of a query."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest

from jobs.delete import EditOptions, delete
from jobs.export import ExportOptions, export, lines
from pipeline.core.errors import UserError
from pipeline.export.hf import write_data
from pipeline.search.engine import SearchIndex
from tests.builders import QUICK, images, run, write_files
from tests.export.roots import neighbours, nested, stored


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def opened(folder: Path) -> datasets.Dataset:
    dataset = datasets.load_from_disk(str(folder))
    dataset.load_faiss_index("embeddings", str(folder / "embeddings.faiss"))
    return dataset


@pytest.mark.parametrize("kind", ["flat", "ivfpq", "lsh", "hnsw"])
def test_datasets_finds_the_same_neighbours(tmp_path: Path, kind: str) -> None:
    root = nested(tmp_path, kinds=(kind, "flat") if kind != "flat" else ("flat",))
    delete(EditOptions(root=str(root), keys=("db/0004.jpg", "db/0020.jpg")))
    told = export(ExportOptions(root=str(root), target=str(tmp_path / "out"), form="hf", index=kind))
    assert (told["images"], told["index"]) == (28, kind)
    assert kind in lines(told)[0]
    dataset = opened(tmp_path / "out")
    ours = stored(root)
    assert dataset["key"][:] == list(ours)
    queries = np.stack(list(ours.values()))[:8]
    scores, examples = dataset.get_nearest_examples_batch("embeddings", queries, k=5)
    theirs = [found["key"] for found in examples]
    wanted = neighbours(root, queries, 5, kind)
    if kind == "lsh":
        # Codes at equal distance come in any order.
        assert [found[0] for found in theirs] == [found[0] for found in wanted]
    else:
        assert theirs == wanted
    one_score, one = dataset.get_nearest_examples("embeddings", queries[3], k=5)
    assert one["key"] == theirs[3]
    assert np.array_equal(np.asarray(one["embeddings"], np.float32), np.stack([ours[key] for key in theirs[3]]))
    assert np.allclose(one_score, scores[3])


def test_a_dataset_has_names_places_and_vectors_of_fixed_length(tmp_path: Path) -> None:
    root = nested(tmp_path)
    export(ExportOptions(root=str(root), target=str(tmp_path / "out"), form="hf"))
    dataset = datasets.load_from_disk(str(tmp_path / "out"))
    vector = datasets.Sequence(datasets.Value("float32"), length=512)
    text = datasets.Value("string")
    assert dataset.features == datasets.Features({"key": text, "uri": text, "embeddings": vector})
    assert dataset[2]["uri"].endswith(f"src/{dataset[2]['key']}")
    matrix = dataset.with_format("numpy")["embeddings"][:]
    assert (matrix.dtype, matrix.shape) == (np.float32, (30, 512))
    assert np.array_equal(matrix, np.stack(list(stored(root).values())))
    # What datasets derives, it keeps under a name of the dataset's content.
    assert dataset.filter(lambda row: row["key"].startswith("query/")).num_rows == 10


def test_another_snapshot_is_another_dataset(tmp_path: Path) -> None:
    root = nested(tmp_path)
    for name in ("first", "again"):
        export(ExportOptions(root=str(root), target=str(tmp_path / name), form="hf"))
    delete(EditOptions(root=str(root), keys=("db/0004.jpg",)))
    export(ExportOptions(root=str(root), target=str(tmp_path / "later"), form="hf"))
    prints = [datasets.load_from_disk(str(tmp_path / name))._fingerprint for name in ("first", "again", "later")]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(("size", "batches", "files"), [(4, 2, 4), (30, 1, 1), (7, 3, 2), (10, 3, 1)])
def test_rows_are_cut_into_files_and_none_is_lost(tmp_path: Path, size: int, batches: int, files: int) -> None:
    root = nested(tmp_path)
    names = [f"data-{number}.arrow" for number in range(files)]
    with SearchIndex.open(str(root)) as index:
        assert list(write_data(index, tmp_path, names, size, batches)) == names
    whole = datasets.concatenate_datasets([datasets.Dataset.from_file(str(tmp_path / name)) for name in names])
    assert whole["key"][:] == list(stored(root))
    first = datasets.Dataset.from_file(str(tmp_path / names[0]))
    assert first.num_rows == min(30, size * batches)
    assert "length=512" in str(first.features["embeddings"])


def test_kinds_that_are_no_faiss_file_are_refused(tmp_path: Path) -> None:
    recipe = type(QUICK)(**{**vars(QUICK), "indexes": ("binary", "flat")})
    run(write_files(tmp_path / "src", images(6)), tmp_path / "root", recipe=recipe)
    with pytest.raises(UserError, match="--index binary: is no index that datasets reads; use flat"):
        export(ExportOptions(root=str(tmp_path / "root"), target=str(tmp_path / "out"), form="hf", index="binary"))
    assert not (tmp_path / "out").exists()
    told = export(ExportOptions(root=str(tmp_path / "root"), target=str(tmp_path / "out"), form="hf"))
    assert told["index"] == "flat"
    assert io.BytesIO((tmp_path / "out" / "embeddings.faiss").read_bytes()).read(4) == b"IxMp"
