"""What every kind of source promises, tried on the same images in each layout."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.errors import UserError
from pipeline.core.specs import kinds, spec_class, spec_from_json
from pipeline.core.types import Entry, Image, Reject, Shard
from pipeline.sources import Source, SourceSpec
from pipeline.sources._detect import detect
from tests.builders import images, tar_bytes, write_files, write_parquet

FAMILY = "pipeline.sources"
FILES = {f"{folder}/{name}": data for folder, (name, data) in zip("baccd", images(5).items(), strict=True)}


def as_tar(folder: Path) -> str:
    files = list(FILES.items())
    write_files(folder, {"x/1.tar": tar_bytes(dict(files[:2])), "x.tar": tar_bytes(dict(files[2:]))})
    return str(folder)


def as_folder(folder: Path) -> str:
    return str(write_files(folder, FILES))


def as_filelist(folder: Path) -> str:
    write_files(folder, FILES)
    (folder / "list.txt").write_text("# images\n" + "\n".join(reversed(FILES)) + "\n\n")
    return str(folder / "list.txt")


def as_parquet(folder: Path) -> str:
    files = list(FILES.items())
    write_parquet(folder / "a.parquet", dict(files[:2]))
    write_parquet(folder / "sub" / "b.parquet", dict(files[2:]))
    return str(folder)


def as_kapture(folder: Path) -> str:
    write_files(folder / "sensors" / "records_data", FILES)
    rows = [f"{number}, cam0, {name}" for number, name in enumerate(FILES)]
    (folder / "sensors" / "records_camera.txt").write_text("# kapture format: 1.1\n" + "\n".join(rows) + "\n")
    return str(folder)


def as_arrow(folder: Path) -> str:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    files = list(FILES.items())
    for name, part in (("data-00000-of-00002.arrow", files[:2]), ("data-00001-of-00002.arrow", files[2:])):
        table = pa.table({"image": pa.array([{"bytes": data, "path": path} for path, data in part], kind)})
        with pa.OSFile(str(folder / name), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    (folder / "state.json").write_text("{}")
    return str(folder)


def as_npy(folder: Path) -> str:
    names = list(VECTORS)
    for name, part in (("a", names[:2]), ("b", names[2:])):
        np.save(folder / f"{name}.npy", np.stack([np.frombuffer(VECTORS[key], "<f4") for key in part]))
        (folder / f"{name}.txt").write_text("\n".join(part) + "\n")
    return str(folder)


VECTORS = {
    name: np.random.default_rng(number).normal(size=7).astype("<f4").tobytes() for number, name in enumerate(FILES)
}
"""The same names for kinds that hold vectors in place of images."""


def content(kind: str) -> dict[str, bytes]:
    return VECTORS if kind == "npy" else FILES


BUILDERS: dict[str, Callable[[Path], str]] = {
    "tar": as_tar,
    "folder": as_folder,
    "filelist": as_filelist,
    "parquet": as_parquet,
    "kapture": as_kapture,
    "arrow": as_arrow,
    "npy": as_npy,
}


@pytest.fixture(params=kinds(FAMILY))
def kind(request: pytest.FixtureRequest) -> str:
    assert request.param in BUILDERS, f"give the source kind {request.param} a builder here"
    return str(request.param)


@pytest.fixture
def location(kind: str, tmp_path: Path) -> str:
    return BUILDERS[kind](tmp_path)


def spec_of(kind: str, **fields: object) -> SourceSpec:
    spec = spec_class(FAMILY, kind)(**fields)
    assert isinstance(spec, SourceSpec)
    return spec


def shards(spec: SourceSpec, source: Source) -> list[Shard]:
    entries = list(source.listing())
    groups = [tuple(entries)] if spec.packs else [(entry,) for entry in entries]
    return [Shard(id=str(n), uri="", bytes=0, etag="", entries=group) for n, group in enumerate(groups)]


def read(spec: SourceSpec, location: str) -> list[Image | Reject]:
    source = spec.open(location)
    return [item for shard in shards(spec, source) for item in source.images(shard)]


def test_every_image_comes_once_with_its_bytes(kind: str, location: str) -> None:
    found = read(spec_of(kind), location)
    assert all(isinstance(item, Image) for item in found)
    assert sorted(item.data for item in found if isinstance(item, Image)) == sorted(content(kind).values())
    assert len({item.key for item in found}) == len(FILES)


def test_keys_end_in_the_image_s_own_name(kind: str, location: str) -> None:
    for item in read(spec_of(kind), location):
        name = next(name for name in FILES if item.key.endswith(name))
        assert isinstance(item, Image)
        assert item.data == content(kind)[name]


def test_the_listing_is_sorted_and_repeats_itself(kind: str, location: str) -> None:
    source = spec_of(kind).open(location)
    first = list(source.listing())
    assert first == list(source.listing())
    assert [e.path.encode() for e in first] == sorted(e.path.encode() for e in first)
    assert all(isinstance(e, Entry) and e.size > 0 and e.etag for e in first)


def test_a_changed_file_changes_its_etag(kind: str, location: str, tmp_path: Path) -> None:
    source = spec_of(kind).open(location)
    before = {entry.path: entry.etag for entry in source.listing()}
    suffixes = (".jpg", ".tar", ".parquet", ".arrow", ".npy")
    changed = next(path for path in sorted(tmp_path.rglob("*")) if path.suffix in suffixes)
    changed.write_bytes(changed.read_bytes() + b"\0")
    after = {entry.path: entry.etag for entry in spec_of(kind).open(location).listing()}
    assert len([path for path in before if before[path] != after[path]]) == 1


def test_match_selects_by_key(kind: str, location: str) -> None:
    assert len(read(spec_of(kind, match="*c/*"), location)) == 2


def test_a_source_that_is_not_there_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / ("list.txt" if kind == "filelist" else "x")
    with pytest.raises(UserError, match="nowhere") as caught:
        list(spec_of(kind).open(str(missing)).listing())
    assert "\n" not in str(caught.value)


def test_the_kind_is_detected(kind: str, location: str) -> None:
    assert detect(location) == kind


def test_settings_survive_json_and_a_process_border(kind: str) -> None:
    spec = spec_of(kind, match="*.png")
    assert spec_from_json(FAMILY, spec.to_json()) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert spec.fingerprint != spec_of(kind).fingerprint
