from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobs.recipe import RecipeOptions
from pipeline.core.errors import ReadError, UserError
from pipeline.core.memory import MemoryStore, register
from pipeline.publish.snapshot import Snapshot
from pipeline.search.engine import SearchIndex
from pipeline.search.originals import Originals
from pipeline.sources import SourceSpec, filelist, folder, kapture, parquet, tar
from tests.builders import QUICK, images, run, tar_bytes, write_files, write_parquet
from tests.unwell import Unwell

FILES = images(6)


def all_read(root: Path, location: str = "") -> Snapshot:
    """Read every original of a root by what its rows say; location: in place of the one that is recorded."""
    with SearchIndex.open(str(root)) as index:
        snapshot, live = index.snapshot, index.live()
        originals = Originals(snapshot.recipe.source, location or snapshot.source)
        for file, row in zip(live.file.tolist(), live.row.tolist(), strict=True):
            image = index.stored.image(file, row)
            assert originals.read(image.key, image.uri, image.sha256) == FILES[image.key.rpartition("/")[2]]
        assert len(live.file) == len(FILES)
        return snapshot


def written(folder: Path, kind: str) -> Path:
    """A source of a kind whose folders and files have "#" in their names."""
    if kind == "folder":
        return write_files(folder, {f"c#d/{name}": data for name, data in FILES.items()})
    if kind == "tar":
        return write_files(
            folder, {"c#d/a#row=1.tar": tar_bytes({f"m#n/{name}": data for name, data in FILES.items()})}
        )
    if kind == "parquet":
        write_parquet(folder / "c#d" / "a#row=1.parquet", {f"m#n/{name}": data for name, data in FILES.items()})
        return folder
    if kind == "kapture":
        lines = "".join(f"{i}, cam, c#d/{name}\n" for i, name in enumerate(FILES))
        data = {f"sensors/records_data/c#d/{name}": data for name, data in FILES.items()}
        return write_files(folder, {"sensors/records_camera.txt": lines.encode(), **data})
    write_files(folder, {f"c#d/{name}": data for name, data in FILES.items()})
    (folder / "list.txt").write_text("".join(f"c#d/{name}\n" for name in FILES))
    return folder / "list.txt"


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet", "kapture", "filelist"])
@pytest.mark.parametrize("spelling", ["{}", "./{}", "up/../{}", "file://{}"])
def test_originals_are_read_from_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, spelling: str
) -> None:
    name = written(tmp_path / "src", kind).relative_to(tmp_path)
    (tmp_path / "up").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = RecipeOptions(**{**vars(QUICK), "source_kind": kind})
    run(spelling.format(tmp_path / name if "://" in spelling else name), tmp_path / "root", recipe=recipe)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert all_read(tmp_path / "root").source == str(tmp_path / name)


def test_a_relative_root_of_a_file_list_is_recorded_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "photos", FILES)
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in FILES))
    monkeypatch.chdir(tmp_path)
    spec = filelist.Spec(root="photos")
    monkeypatch.chdir("/")
    originals = Originals(spec, str(tmp_path / "list.txt"))
    assert originals.read("0001.jpg", "whatever") == FILES["0001.jpg"]


def test_locations_of_older_releases_are_read_from_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("folder", "tar"):
        written(tmp_path / kind, kind)
        monkeypatch.chdir(tmp_path)
        run(kind, tmp_path / f"root-{kind}")
        all_read(tmp_path / f"root-{kind}", kind)


def test_one_container_as_the_source_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {"a#b.tar": tar_bytes(FILES)})
    monkeypatch.chdir(tmp_path)
    run("a#b.tar", tmp_path / "root")
    monkeypatch.chdir("/")
    all_read(tmp_path / "root")


def test_a_file_beside_the_source_is_not_taken_for_an_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_files(tmp_path / "src", FILES)
    run(source, tmp_path / "root")
    shutil.rmtree(source)
    write_files(tmp_path / "other", FILES)
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(UserError, match="no longer there"):
        all_read(tmp_path / "root")


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
def test_images_that_were_indexed_elsewhere_are_read_from_where_they_lie_now(tmp_path: Path, kind: str) -> None:
    run(written(tmp_path / "src", kind), tmp_path / "root")
    (tmp_path / "src").rename(tmp_path / "moved")
    all_read(tmp_path / "root", str(tmp_path / "moved"))


def test_the_store_of_the_source_is_asked_and_no_other() -> None:
    stored = MemoryStore("originals")
    register("originals", stored)
    try:
        stored.write("x/a.jpg", FILES["0001.jpg"])
        stored.write("x/a.tar", tar_bytes({"b.jpg": FILES["0002.jpg"]}))
        location = "memory://originals/x"
        assert Originals(folder.Spec(), location).read("a.jpg", "s3://gone/a.jpg") == FILES["0001.jpg"]
        assert Originals(tar.Spec(), location).read("a.tar/b.jpg", "s3://gone/a.tar#b.jpg") == FILES["0002.jpg"]
    finally:
        register("originals", None)


@pytest.mark.parametrize(
    ("spec", "key", "uri", "path"),
    [
        (tar.Spec(), "a.tar/b.jpg", "/s/a.tar#b.jpg", "a.tar"),
        (tar.Spec(), "c#d/a#.tar/b#/c#.jpg", "/s#/c#d/a#.tar#b#/c#.jpg", "c#d/a#.tar"),
        (tar.Spec(), "a.tar/b.jpg", "/s/a.tar/b.jpg", ""),
        (tar.Spec(), "a.tar/b.jpg", "/s/a.tar#c.jpg", ""),
        (parquet.Spec(), "d/a.parquet/x/y", "/s/d/a.parquet#row=3", "d/a.parquet"),
        (parquet.Spec(), "a#row=1.parquet/x", "/s/a#row=1.parquet#row=12", "a#row=1.parquet"),
        (parquet.Spec(), "a.parquet/a.parquet/x", "/a.parquet/a.parquet#row=0", "a.parquet"),
        (parquet.Spec(), "a.parquet/x", "/s/a.parquet", ""),
        (parquet.Spec(), "a.parquet/x", "/s/b.parquet#row=0", ""),
    ],
)
def test_key_and_uri_lead_to_the_container(tmp_path: Path, spec: SourceSpec, key: str, uri: str, path: str) -> None:
    assert spec.open(str(tmp_path)).container(key, uri) == path  # type: ignore[attr-defined]


def test_an_image_of_no_kind_of_container_is_not_there(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.tar": tar_bytes(FILES)})
    with pytest.raises(UserError, match="no longer there"):
        Originals(tar.Spec(), str(tmp_path)).read("a.tar/x.jpg", f"{tmp_path}/a.tar#x.jpg")
    with pytest.raises(UserError, match="no longer there"):
        Originals(tar.Spec(), str(tmp_path)).read("a.tar/0001.jpg", f"{tmp_path}/a.tar")


def test_files_of_kapture_keep_the_options_of_the_location() -> None:
    options = "?endpoint=http://minio:9000"
    assert kapture.Spec().files(f"s3://b/k{options}").url == "s3://b/k/sensors/records_data"


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
def test_what_cannot_be_read_now_is_not_said_to_be_away(tmp_path: Path, kind: str) -> None:
    files = dict(list(FILES.items())[:1])
    (key, data), store = next(iter(files.items())), MemoryStore("unwell")
    name = key
    if kind == "tar":
        name, data = "a.tar", tar_bytes(files)
    elif kind == "parquet":
        write_parquet(tmp_path / "a.parquet", files)
        name, data = "a.parquet", (tmp_path / "a.parquet").read_bytes()
    store.write(f"src/{name}", data)
    register("unwell", Unwell(store, {f"src/{name}": (lambda path: OSError(5, "Input/output error", path), 0)}))
    spec: SourceSpec = {"folder": folder.Spec, "tar": tar.Spec, "parquet": parquet.Spec}[kind]()
    base = f"memory://unwell/src/{name}"
    uri = {"folder": base, "tar": f"{base}#{key}", "parquet": f"{base}#row=0"}[kind]
    try:
        with pytest.raises(ReadError, match="cannot be read now"):
            Originals(spec, "memory://unwell/src").read(key if kind == "folder" else f"{name}/{key}", uri)
    finally:
        register("unwell", None)
