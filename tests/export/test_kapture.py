"""What the kapture library opens: its loader reads the folder, its reader the vectors."""

from __future__ import annotations

from pathlib import Path

import kapture
import numpy as np
import pyarrow.parquet as pq
import pytest
from kapture.io.csv import kapture_from_dir
from kapture.io.features import global_features_check_dir, global_features_to_filepaths, image_global_features_from_file

from jobs.export import ExportOptions, export, lines
from pipeline.core.errors import UserError
from pipeline.core.memory import MemoryStore, register
from pipeline.core.storage import open_store
from pipeline.core.types import Floats
from pipeline.search.engine import SearchIndex
from tests.export.roots import ODD, neighbours, nested, odd, stored


def read(folder: Path) -> tuple[kapture.Kapture, str, dict[str, Floats]]:
    """Open a folder as kapture does; return it, its only type of global features, and the vectors by image name."""
    data = kapture_from_dir(str(folder))
    (kind,) = data.global_features
    features = data.global_features[kind]
    assert global_features_check_dir(features, kind, str(folder))
    vectors = {
        name: image_global_features_from_file(path, features.dtype, features.dsize)[0]
        for name, path in global_features_to_filepaths(features, kind, str(folder)).items()
    }
    return data, kind, vectors


def test_kapture_reads_the_folder_and_finds_the_same_neighbours(tmp_path: Path) -> None:
    root = nested(tmp_path)
    told = export(ExportOptions(root=str(root), target=str(tmp_path / "out"), form="kapture"))
    data, kind, vectors = read(tmp_path / "out")
    ours = stored(root)
    with SearchIndex.open(str(root)) as index:
        assert kind == f"sightline-{index.snapshot.recipe.fingerprint[:12]}"
    features = data.global_features[kind]
    assert (features.type_name, features.dtype, features.dsize, features.metric_type) == (kind, np.float32, 512, "L2")
    assert set(data.records_camera.data_list()) == set(features) == set(vectors) == set(ours)
    assert all(np.array_equal(vectors[key], ours[key]) for key in ours)
    names = sorted(vectors)
    matrix = np.stack([vectors[name] for name in names])
    nearest = np.argsort(-matrix[:5] @ matrix.T, axis=1)[:, :4]
    assert [[names[place] for place in row] for row in nearest] == neighbours(root, matrix[:5], 4)
    assert told["more"] == {"files": 0, "bytes": 0}
    assert len(told["files"]) == 4 + 30
    assert "and 28 more (57344 bytes)" in lines(told)[0]


def test_names_that_kapture_cannot_hold_are_escaped_and_stay_in_the_folder(tmp_path: Path) -> None:
    root = odd(tmp_path)
    out = tmp_path / "deep" / "out"
    export(ExportOptions(root=str(root), target=str(out), form="kapture"))
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"out"}
    _, kind, vectors = read(out)
    table = pq.read_table(out / "names.parquet").to_pydict()
    names = dict(zip(table["key"], table["name"], strict=True))
    assert set(names) == {f"data.parquet/{name}" for name in ODD}
    assert set(vectors) == set(names.values())
    beneath = out / "reconstruction" / "global_features" / kind / "data.parquet"
    assert len([path for path in beneath.rglob("*.gfeat") if path.is_file()]) == len(ODD)
    ours = stored(root)
    assert all(np.array_equal(vectors[name], ours[key]) for key, name in names.items())


@pytest.mark.parametrize("name", ["end.jpg ", "end.jpg\u3000", "x" * 250, "/".join(["long"] * 250)])
def test_names_that_no_file_or_table_holds_are_refused(tmp_path: Path, name: str) -> None:
    root = odd(tmp_path, ["plain.jpg", name])
    with pytest.raises(UserError, match=r"^'data.parquet/.*(blank|too long).*delete it") as caught:
        export(ExportOptions(root=str(root), target=str(tmp_path / "out"), form="kapture"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_files_in_folders_reach_an_object_store(tmp_path: Path) -> None:
    root = nested(tmp_path, count=120)
    store = MemoryStore("exports")
    register("exports", store)
    try:
        told = export(ExportOptions(root=str(root), target="memory://exports/some/where", form="kapture"))
    finally:
        register("exports", None)
    assert (len(told["files"]), told["more"]) == (100, {"files": 24, "bytes": 24 * 4 * 512})
    for name, (data, _) in store.objects.items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    ours = stored(root)
    _, _, vectors = read(tmp_path / "copy" / "some" / "where")
    assert set(vectors) == set(ours)
    assert all(np.array_equal(vectors[key], ours[key]) for key in ours)


@pytest.mark.s3
def test_files_of_any_name_reach_s3(tmp_path: Path, bucket: str) -> None:
    root = odd(tmp_path)
    export(ExportOptions(root=str(root), target=f"{bucket}/exports", form="kapture"))
    store = open_store(f"{bucket}/exports")
    for entry in store.list():
        path = tmp_path / "copy" / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(entry.path))
    _, _, vectors = read(tmp_path / "copy")
    table = pq.read_table(tmp_path / "copy" / "names.parquet").to_pydict()
    ours = stored(root)
    assert len(vectors) == len(ours) == len(ODD)
    pairs = zip(table["key"], table["name"], strict=True)
    assert all(np.array_equal(vectors[name], ours[key]) for key, name in pairs)
