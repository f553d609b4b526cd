"""What hloc reads: the names by visiting every dataset, the descriptors by name, pairs by a matrix of products."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.export import ExportOptions, export
from pipeline.core.errors import UserError
from pipeline.core.types import Floats
from pipeline.export.hloc import FEATURES
from tests.builders import QUICK, images, run, write_files
from tests.export.roots import ODD, neighbours, nested, odd, stored


def written(root: Path, out: Path) -> Path:
    told = export(ExportOptions(root=str(root), target=str(out), form="hloc"))
    assert sorted(told["files"]) == sorted([FEATURES, "names.parquet"])
    return out / FEATURES


def listed(path: Path) -> list[str]:
    """As hloc lists names: a dataset's group is named as the image."""
    found: set[str] = set()

    def visit(_: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found.add(item.parent.name.strip("/"))

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return sorted(found)


def described(path: Path, names: list[str]) -> Floats:
    with h5py.File(path, "r") as file:
        return np.stack([np.asarray(file[name]["global_descriptor"], np.float32) for name in names])


def test_pairs_of_hloc_are_those_of_our_own_search(tmp_path: Path) -> None:
    root = nested(tmp_path)
    path = written(root, tmp_path / "out")
    ours = stored(root)
    assert listed(path) == sorted(ours)
    queries = [name for name in listed(path) if name.startswith("query/")]
    assert len(queries) == 10
    database = described(path, listed(path))
    similar = np.argsort(-described(path, queries) @ database.T, axis=1, kind="stable")[:, :6]
    theirs = [[listed(path)[place] for place in row] for row in similar]
    assert theirs == neighbours(root, np.stack([ours[name] for name in queries]), 6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "binary"])
def test_descriptors_lose_nothing(tmp_path: Path, dtype: str) -> None:
    whiten = "pca" if dtype == "binary" else "none"
    recipe = type(QUICK)(**{**vars(QUICK), "dtype": dtype, "whiten": whiten})
    run(write_files(tmp_path / "src", images(5)), tmp_path / "root", recipe=recipe)
    path = written(tmp_path / "root", tmp_path / "out")
    for key, vector in stored(tmp_path / "root").items():
        with h5py.File(path, "r") as file:
            dataset = file[key]["global_descriptor"]
            assert dataset.dtype == (np.float16 if dtype == "float16" else np.float32)
            assert np.array_equal(np.asarray(dataset, np.float32), vector)


def test_names_that_hdf5_cannot_hold_are_escaped_and_told(tmp_path: Path) -> None:
    root = odd(tmp_path)
    path = written(root, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "names.parquet").to_pydict()
    names = dict(zip(table["key"], table["name"], strict=True))
    assert set(names) == {f"data.parquet/{name}" for name in ODD}
    assert listed(path) == sorted(names.values())
    kept = ["a", "a/b", "Smith, John.jpg", "back\\slash.jpg", "Straße 東京.jpg", "100%.jpg", "Caf%C3%A9%20au.jpg"]
    assert all(names[f"data.parquet/{name}"] == f"data.parquet/{name}" for name in kept)
    ours = stored(root)
    assert np.array_equal(described(path, list(names.values())), np.stack([ours[key] for key in names]))


def test_an_old_hdf5_library_reads_it(tmp_path: Path) -> None:
    path = written(nested(tmp_path, count=4), tmp_path / "out")
    # Byte 8 is the version of the superblock: 3 since HDF5 1.10.
    assert path.read_bytes()[:9] == b"\x89HDF\r\n\x1a\n\x03"


def test_who_lacks_h5py_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = nested(tmp_path, count=4)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"needs h5py; pip install 'sightline\[hloc\]'"):
        export(ExportOptions(root=str(root), target=str(tmp_path / "out"), form="hloc"))
    assert not (tmp_path / "out").exists()
