from __future__ import annotations

from pathlib import Path

import pytest

from jobs.delete import EditOptions, delete
from pipeline.search.engine import SearchIndex
from pipeline.search.originals import Originals
from tests.builders import images, run, tar_bytes, write_files, write_parquet


def places(root: Path, keys: list[str]) -> dict[str, tuple[int, int] | None]:
    with SearchIndex.open(str(root)) as index:
        found = {key: index.place(key) for key in keys}
        for key, place in found.items():
            assert place is None or index.stored.image(*place).key == key
        return found


def test_every_live_key_is_found_and_no_other(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", {**images(13), "b/c/0001.jpg": images(1)["0000.jpg"]})
    run(source, tmp_path / "root")
    found = places(tmp_path / "root", [*images(13), "b/c/0001.jpg", "b/c", "b", "0001.jp", "0001.jpg/x", "", "/", "é"])
    assert {key for key, place in found.items() if place is not None} == {*images(13), "b/c/0001.jpg"}


def test_keys_beneath_containers_are_found(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", {"a.tar": tar_bytes(images(5)), "d/b.tar": tar_bytes(images(5))})
    run(source, tmp_path / "root")
    found = places(tmp_path / "root", ["a.tar/0003.jpg", "d/b.tar/0004.jpg", "a.tar", "b.tar/0004.jpg"])
    assert [place is not None for place in found.values()] == [True, True, False, False]


def test_only_short_keys_that_are_there_are_remembered(tmp_path: Path) -> None:
    long = "/".join(["d" * 200] * 3) + "/0000.jpg"
    source = write_files(tmp_path / "src", {**images(3), long: images(4)["0003.jpg"]})
    run(source, tmp_path / "root")
    with SearchIndex.open(str(tmp_path / "root")) as index:
        for key in ("0001.jpg", "0001.jpg", "gone.jpg", "x" * 4096, long):
            assert (index.place(key) is not None) == (key in {"0001.jpg", long})
        assert list(index._keys._places) == ["0001.jpg"]


def test_deleted_and_changed_images_lead_to_what_is_live(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", images(9))
    run(source, tmp_path / "root")
    (source / "0002.jpg").write_bytes(images(10)["0009.jpg"])
    run(source, tmp_path / "root")
    delete(EditOptions(root=str(tmp_path / "root"), keys=("0003.jpg",)))
    before = places(tmp_path / "root", ["0002.jpg", "0003.jpg"])
    assert before["0003.jpg"] is None
    with SearchIndex.open(str(tmp_path / "root")) as index:
        place = index.place("0002.jpg")
        assert place is not None
        live = index.live()
        assert place in set(zip(live.file.tolist(), live.row.tolist(), strict=True))


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
def test_originals_are_read_by_key_from_every_source(tmp_path: Path, kind: str) -> None:

    files = images(150 if kind == "parquet" else 7)
    if kind == "folder":
        source = write_files(tmp_path / "src", files)
    elif kind == "tar":
        source = write_files(tmp_path / "src", {"x/a.tar": tar_bytes(files)})
    else:
        source = tmp_path / "src"
        write_parquet(source / "a.parquet", files, row_group_size=40)
    run(source, tmp_path / "root")
    with SearchIndex.open(str(tmp_path / "root")) as index:
        originals = Originals(index.snapshot.recipe.source, index.snapshot.source)
        live = index.live()
        for file, row in zip(live.file.tolist(), live.row.tolist(), strict=True):
            image = index.stored.image(file, row)
            data = originals.read(image.key, image.uri, image.sha256)
            assert data == files[image.key.rpartition("/")[2]]
