"""Files found in folders, or named in lists: what is passed over, and names of every sort."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jobs.recipe import RecipeOptions, build_recipe
from pipeline.core.errors import UserError
from pipeline.core.local import LocalStore
from pipeline.core.specs import kinds, spec_class
from pipeline.core.types import Entry, Image, Reject, Shard
from pipeline.publish.catalog import Catalog
from pipeline.search.originals import Originals
from pipeline.sources import SourceSpec, in_hidden_folder
from pipeline.sources import filelist as filelists
from pipeline.sources import folder as folders
from pipeline.stages.kinds import source_spec
from tests.builders import jpeg, run, tar_bytes, write_files, write_parquet
from tests.fake_s3 import FakeS3, fake_s3

JUNK = (
    *("@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", ".Trash-1000/files/b.jpg", ".thumbnails/large/c.png", "lost+found/d.jpg"),
    *("__MACOSX/._e.jpg", "f/._g.jpg", ".cache/h.jpg", "f/.git/i.png", "#recycle/j.jpg"),
)
PHOTOS = ("a.jpg", "f/g.jpg", "f/.hidden.jpg", "...dots/k.jpg")


def spec_of(kind: str, **fields: object) -> SourceSpec:
    spec = spec_class("pipeline.sources", kind)(**fields)
    assert isinstance(spec, SourceSpec)
    return spec


def read(spec: SourceSpec, location: str) -> list[Image | Reject]:
    source = spec.open(location)
    entries = tuple(source.listing())
    groups = [entries] if spec.packs else [(entry,) for entry in entries]
    shards = [Shard(id="", uri="", bytes=0, etag="", entries=group) for group in groups]
    return [item for shard in shards for item in source.images(shard)]


def listed(spec: SourceSpec, location: Path | str) -> list[str]:
    return [entry.path for entry in spec.open(str(location)).listing()]


def test_system_files_and_hidden_folders_are_passed_over_and_counted(tmp_path: Path) -> None:
    write_files(tmp_path, dict.fromkeys((*JUNK, *PHOTOS, "notes.txt"), jpeg(1)))
    source = folders.Spec(skip_system=True).open(str(tmp_path))
    # A folder of dots alone, as in S3 keys, hides nothing.
    assert [entry.path for entry in source.listing()] == ["a.jpg", "f/.hidden.jpg", "f/g.jpg"]
    assert source.skipped == len(JUNK) + 2
    old = folders.Spec()
    assert listed(old, tmp_path) == sorted((*JUNK, *PHOTOS), key=str.encode), "old recipes list what they did"


def test_only_folders_hide_what_is_in_them() -> None:
    for path in (".a/b.jpg", "x/.a/y/b.jpg", "..a/b.jpg"):
        assert in_hidden_folder(path)
    for path in (".b.jpg", "a/.b.jpg", "./a.jpg", "../a.jpg", "a.b/c.jpg"):
        assert not in_hidden_folder(path)


@pytest.mark.parametrize("kind", kinds("pipeline.sources"))
def test_a_new_recipe_passes_system_files_over_and_an_old_one_keeps_its_meaning(kind: str) -> None:
    fresh = build_recipe(RecipeOptions(backbone="squeezenet1_1", weights="random:0"), head=None, source_kind=kind)
    assert ("skip_system" in fresh.recipe.source.initial) == (kind not in ("filelist", "kapture"))
    assert fresh.recipe.source.to_json() == {"kind": kind, **fresh.recipe.source.initial}
    spec = spec_of(kind)
    old = fresh.recipe.model_copy(update={"source": spec})
    again = build_recipe(RecipeOptions(), head=old, source_kind=kind)
    assert again.recipe.source == spec
    changed = build_recipe(RecipeOptions(exclude=("*/b/*", "x")), head=old, source_kind=kind)
    assert changed.recipe.source.to_json() == {"kind": kind, "exclude": ["*/b/*", "x"]}
    cleared = build_recipe(RecipeOptions(exclude=("",)), head=changed.recipe, source_kind=kind)
    assert cleared.recipe.source.fingerprint == spec.fingerprint


def test_exclude_holds_for_every_kind(tmp_path: Path) -> None:
    files = {"a.jpg": jpeg(1), "thumbs/a.jpg": jpeg(2), "c.jpg": jpeg(3)}
    plain = write_files(tmp_path / "plain", files)
    write_files(tmp_path / "list", {**files, "list.txt": "\n".join(files).encode()})
    write_files(tmp_path / "tar", {"x.tar": tar_bytes(files), "thumbs/y.tar": b"not read"})
    write_parquet(tmp_path / "parquet" / "x.parquet", files)
    write_files(tmp_path / "npy", {"x.txt": "\n".join(files).encode()})
    np.save(tmp_path / "npy" / "x.npy", np.ones((3, 4), np.float32))
    records = "".join(f"{number}, cam, {name}\n" for number, name in enumerate(files))
    write_files(tmp_path / "kapture" / "sensors" / "records_data", files)
    (tmp_path / "kapture" / "sensors" / "records_camera.txt").write_text(records)
    places = {"folder": plain, "filelist": tmp_path / "list" / "list.txt"}
    for kind in ("folder", "filelist", "tar", "parquet", "npy", "kapture"):
        spec = spec_of(kind, exclude=("*thumbs/*", "*c.jpg"))
        keys = [item.key for item in read(spec, str(places.get(kind, tmp_path / kind)))]
        assert [key.rpartition(f"x.{kind}/")[2] for key in keys] == ["a.jpg"], kind


def test_archives_in_system_folders_are_no_shards(tmp_path: Path) -> None:
    data = tar_bytes({"a.jpg": jpeg(1)})
    write_files(tmp_path, {"a.tar": data, "._a.tar": b"\0\5\x16\7", "@eaDir/a.tar": b"x", ".old/b.tar": data})
    spec = spec_of("tar", skip_system=True)
    assert listed(spec, tmp_path) == ["a.tar"]
    source = spec.open(str(tmp_path))
    list(source.listing())
    assert (source.skipped, list(source.unreadable)) == (3, [])


def test_pipes_among_the_files_never_block_and_are_counted(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": jpeg(1), "list.txt": b"a.jpg\npipe.jpg\n"})
    os.mkfifo(tmp_path / "pipe.jpg")
    items: list[Image | Reject] = []

    def look() -> None:
        source = folders.Spec().open(str(tmp_path))
        assert [entry.path for entry in source.listing()] == ["a.jpg"]
        assert source.skipped == 2
        items.extend(read(filelists.Spec(), str(tmp_path / "list.txt")))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert [type(item) for item in items] == [Image, Reject]


def test_a_list_names_files_by_their_bytes(tmp_path: Path) -> None:
    base = os.fsencode(tmp_path)
    names = [b"Mu\xf1oz.jpg", b"Mu\\xf1oz.jpg", "é\u2028b.jpg".encode(), b"plain.jpg"]
    for number, name in enumerate(names):
        Path(os.fsdecode(base + b"/" + name)).write_bytes(jpeg(number))
    lines = [*names[:3], base + b"/plain.jpg", base + b"//plain.jpg"]
    (tmp_path / "list.txt").write_bytes(b"\r\n".join(lines))
    found = {
        item.key: item.data for item in read(filelists.Spec(), str(tmp_path / "list.txt")) if isinstance(item, Image)
    }
    expected = ["Mu\\xf1oz.jpg", "Mu\\x5cxf1oz.jpg", "é\u2028b.jpg", "plain.jpg"]
    assert found == {key: jpeg(number) for number, key in enumerate(expected)}
    (tmp_path / "list.txt").write_text("a.jpg\n", encoding="utf-16")
    with pytest.raises(UserError, match="UTF-16"):
        filelists.Spec().open(str(tmp_path / "list.txt"))


@pytest.fixture
def fake(s3_credentials: None) -> Iterator[FakeS3]:
    with fake_s3() as made:
        yield made


KEYS = ("a//b.jpg", "/c.jpg", "../d.jpg", "e/./f.jpg", "g::h.jpg", "\\xe9.jpg")


def test_every_key_of_a_bucket_is_indexed_however_unlike_a_path(fake: FakeS3) -> None:
    fake.objects = {f"src/{key}": jpeg(number) for number, key in enumerate(KEYS)}
    fake.objects["src/list.txt"] = "\n".join(("./a//b.jpg", *KEYS[1:])).encode()
    fake.objects["src//x.tar"] = tar_bytes({"i.jpg": jpeg(9)})
    expected = {key: jpeg(number) for number, key in enumerate(KEYS)}
    for spec, location in (
        (folders.Spec(skip_system=True), fake.location("src")),
        (filelists.Spec(), fake.location("src/list.txt")),
    ):
        items = read(spec, location)
        assert {item.key: item.data for item in items if isinstance(item, Image)} == expected
    for location in (fake.location("src"), fake.location("src//x.tar")):
        (item,) = read(spec_of("tar"), location)
        assert (item.key, isinstance(item, Image)) == ("/x.tar/i.jpg", True)


def test_a_source_that_vanishes_between_opening_and_listing_is_refused(tmp_path: Path) -> None:
    for kind in ("folder", "tar"):
        folder = write_files(tmp_path / kind, {"a.jpg": jpeg(1), "a.tar": tar_bytes({})})
        source = spec_of(kind).open(str(folder))
        assert all(isinstance(entry, Entry) for entry in source.listing())
        shutil.rmtree(folder)
        with pytest.raises(UserError, match="cannot be listed"):
            list(source.listing())


def test_a_folder_whose_own_name_is_not_utf8_is_indexed_and_known_again(tmp_path: Path) -> None:
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    write_files(source, {"a.jpg": jpeg(1)})
    write_files(source, {os.fsdecode(b"\xff.jpg"): jpeg(2)})
    report = run(source, tmp_path / "root")
    assert (report.published, report.images["indexed"]) == (True, 2)
    head = Catalog(LocalStore(str(tmp_path / "root"))).require_head()
    assert head.source == f"{tmp_path}/caf\\xe9"
    for again in (str(source), head.source):
        assert not run(again, tmp_path / "root").published
    originals = Originals(source_spec(head.recipe), head.source)
    assert originals.read("\\xff.jpg", "") == jpeg(2)
