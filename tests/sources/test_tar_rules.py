"""Archives as new recipes read them: names, repeats, links, side members and what is skipped."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline.core.errors import ShardError
from pipeline.core.types import Image, Reject, Shard
from pipeline.sources.tar import Spec, TarSource
from tests.builders import images, tar_bytes

FILES = images(3)
Member = tuple[str, bytes]
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def archive(*members: Member | tarfile.TarInfo, kind: str = "w", form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=kind, format=form) as tar:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, data = member
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def opened(folder: Path, data: bytes, **fields: object) -> tuple[TarSource, Shard]:
    (folder / "a.tar").write_bytes(data)
    source = Spec(rules=2, **fields).open(str(folder))
    (entry,) = source.listing()
    return source, Shard(id="1", uri="", bytes=entry.size, etag="", entries=(entry,))


def read(folder: Path, data: bytes, **fields: object) -> list[Image | Reject]:
    source, shard = opened(folder, data, **fields)
    return list(source.images(shard))


def contents(items: Sequence[Image | Reject]) -> list[tuple[str, bytes]]:
    return [(item.key.removeprefix("a.tar/"), item.data) for item in items if isinstance(item, Image)]


def picked(folder: Path, data: bytes, name: str) -> bytes | None:
    source, _ = opened(folder, data)
    return source.pick(f"a.tar/{name}", f"{folder}/a.tar#{name}")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("./a.jpg", "a.jpg"),
        ("././a.jpg", "a.jpg"),
        ("a//b.jpg", "a/b.jpg"),
        ("a/./b.jpg", "a/b.jpg"),
        ("./a/.//./b.jpg", "a/b.jpg"),
        ("../x.jpg", "../x.jpg"),
        ("a/../x.jpg", "a/../x.jpg"),
        ("/x.jpg", "/x.jpg"),
        ("//x.jpg", "/x.jpg"),
        (".hidden.jpg", ".hidden.jpg"),
        ("...jpg", "...jpg"),
        ("n/" * 2000 + "x.jpg", "n/" * 2000 + "x.jpg"),
        ("./caf\udce9.jpg", "caf\\xe9.jpg"),
    ],
)
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_are_normalized_and_stay_labels(tmp_path: Path, name: str, key: str, form: int) -> None:
    data = archive((name, b"1"), form=form)
    (item,) = read(tmp_path, data)
    assert item.key == f"a.tar/{key}"
    assert picked(tmp_path, data, key) == b"1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar"]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_of_tar_is_read(tmp_path: Path, form: str) -> None:
    data = archive(*FILES.items(), form=FORMATS[form])
    assert contents(read(tmp_path, data)) == list(FILES.items())


def test_a_header_of_the_seventh_edition_is_read(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("x.jpg").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"%011o\0" % 4
    header[156:157] = b"\0"
    header[257:512] = bytes(255)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert contents(read(tmp_path, bytes(header) + b"data" + bytes(508 + 1024))) == [("x.jpg", b"data")]


def test_the_last_of_equal_names_is_what_a_picture_is_read_from(tmp_path: Path) -> None:
    data = archive(("./x.jpg", b"first"), ("y.jpg", b"other"), ("x.jpg", b"second"))
    assert [data for _, data in contents(read(tmp_path, data))] == [b"first", b"other", b"second"]
    assert picked(tmp_path, data, "x.jpg") == b"second"


def test_where_each_image_lies_is_known(tmp_path: Path) -> None:
    data = archive(*FILES.items(), link("link.jpg", "0001.jpg"))
    found = [item for item in read(tmp_path, data) if isinstance(item, Image)]
    assert len(found) == 4
    for item in found:
        assert item.span is not None
        assert data[item.span[0] :][: item.span[1]] == item.data


@pytest.mark.parametrize("compression", ["w", "w:gz", "w:xz"])
def test_a_hard_link_has_the_bytes_of_the_member_before_it_that_it_names(tmp_path: Path, compression: str) -> None:
    members = (
        ("blob", b"of no suffix"),
        ("a/x.jpg", b"x" * 600),
        link("b/y.jpg", "a/x.jpg"),
        link("z.jpg", "./blob"),
        link("chain.jpg", "b/y.jpg"),
        ("a/x.jpg", b"newer"),
        link("w.jpg", "a/x.jpg"),
        link("later.jpg", "behind.jpg"),
        ("behind.jpg", b"behind"),
        link("outside.jpg", "/etc/hostname"),
    )
    data = archive(*members, kind=compression)
    items = read(tmp_path, data)
    expected = {
        "b/y.jpg": b"x" * 600,
        "z.jpg": b"of no suffix",
        "chain.jpg": b"x" * 600,
        "a/x.jpg": b"newer",
        "w.jpg": b"newer",
        "behind.jpg": b"behind",
    }
    assert dict(contents(items)) == expected
    reasons = {item.key: item.reason for item in items if isinstance(item, Reject)}
    assert set(reasons) == {"a.tar/later.jpg", "a.tar/outside.jpg"}
    assert all("hard link" in reason for reason in reasons.values())
    assert {name: picked(tmp_path, data, name) for name in expected} == expected
    assert picked(tmp_path, data, "later.jpg") is None


@pytest.mark.parametrize("compression", ["w", "w:gz"])
def test_a_hard_link_that_a_later_member_replaces_is_recorded(tmp_path: Path, compression: str) -> None:
    data = archive(("a.jpg", b"a"), link("b.jpg", "a.jpg"), ("b.jpg", b"b"), kind=compression)
    items = read(tmp_path, data)
    assert [item.key for item in items] == ["a.tar/a.jpg", "a.tar/b.jpg", "a.tar/b.jpg"]
    assert dict(contents(items)) == {"a.jpg": b"a", "b.jpg": b"b"}
    assert picked(tmp_path, data, "b.jpg") == b"b"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_other_links_and_devices_are_rejected_unread(tmp_path: Path, kind: bytes) -> None:
    (item,) = read(tmp_path, archive(link("x.jpg", "/etc/hostname", kind)))
    assert isinstance(item, Reject)
    assert "regular" in item.reason


def test_system_files_and_pictures_of_other_formats_are_skipped_by_suffix(tmp_path: Path) -> None:
    names = ("._x.jpg", "__MACOSX/x.jpg", ".DS_Store", "a.HEIC", "b.heic", "c.dng", "x.jpg", "notes.txt", "x.json")
    items = read(tmp_path, archive(*((name, b"1") for name in names)))
    skipped = [item.reason for item in items if isinstance(item, Reject) and item.status == "skipped"]
    assert sorted(skipped) == [".dng", ".heic", ".heic", "system", "system", "system"]
    assert contents(items) == [("x.jpg", b"1")]
    assert len(items) == 7


def test_a_system_file_says_nothing_of_an_image(tmp_path: Path) -> None:
    (item, _) = read(tmp_path, archive(("x.jpg", b"1"), ("._x.json", b'{"n": 1}')), metadata={"n": "int64"})
    assert isinstance(item, Image)
    assert dict(item.metadata) == {"n": None}


def told(folder: Path, *members: Member | tarfile.TarInfo, kind: str = "w", **declared: str) -> dict[str, object]:
    items = read(folder, archive(*members, kind=kind), metadata=declared or {"n": "int64"})
    found = {item.key.removeprefix("a.tar/"): dict(item.metadata) for item in items if isinstance(item, Image)}
    return {name: value if declared else value["n"] for name, value in found.items()}


def side(number: int) -> bytes:
    return json.dumps({"n": number}).encode()


@pytest.mark.parametrize("order", [lambda m: m, lambda m: m[::-1], lambda m: [*m[1::2], *m[::2]]])
def test_side_members_count_wherever_they_lie(tmp_path: Path, order: Callable[[list[Member]], list[Member]]) -> None:
    pairs = [(f"{i}.jpg", b"1") for i in range(5)], [(f"{i}.json", side(i)) for i in (3, 0, 4, 1)]
    members = [*pairs[0], *pairs[1]]
    assert told(tmp_path, *order(members)) == {"0.jpg": 0, "1.jpg": 1, "2.jpg": None, "3.jpg": 3, "4.jpg": 4}


def test_an_image_may_be_named_by_sample_by_name_or_by_file(tmp_path: Path) -> None:
    members = [(f"{name}.jpg", b"1") for name in ("x.left", "x.right", "y", "z.1.2", ".hidden", "s.v1.a")]
    sides = {"x.json": 1, "x.left.json": 2, "y.jpg.json": 3, "z.1.2.json": 4, "z.1.json": 5, ".hidden.json": 6}
    sides |= {"a/y.json": 7, "s.v1.json": 8, "s.json": 9}
    assert told(tmp_path, *members, *((name, side(number)) for name, number in sides.items())) == {
        "x.left.jpg": 2,
        "x.right.jpg": 1,
        "y.jpg": 3,
        "z.1.2.jpg": 4,
        ".hidden.jpg": 6,
        "s.v1.a.jpg": 8,
    }


def test_texts_go_before_json_and_the_last_of_equal_side_members_counts(tmp_path: Path) -> None:
    members = (
        ("x.txt", b"\xef\xbb\xbfone\n"),
        ("x.jpg", b"1"),
        ("x.json", b'{"txt": "json", "n": 1}'),
        ("x.json", b'{"txt": "json", "m": 2}'),
        ("x.cls", b"7"),
    )
    declared = {"txt": "string", "n": "int64", "m": "int64", "label": "int64:cls"}
    assert told(tmp_path, *members, **declared) == {"x.jpg": {"txt": "one", "n": None, "m": 2, "label": 7}}
    assert told(tmp_path, *members, ("x.txt", b"two"), **declared)["x.jpg"]["txt"] == "two"  # type: ignore[index]


def test_json_of_some_megabytes_is_read(tmp_path: Path) -> None:
    large = json.dumps({"more": "x" * (3 << 20), "n": 5}).encode()
    assert told(tmp_path, ("x.json", large), ("x.jpg", b"1")) == {"x.jpg": 5}


@pytest.mark.parametrize("compression", ["w", "w:gz"])
def test_side_members_may_be_hard_links(tmp_path: Path, compression: str) -> None:
    members = (("common", side(9)), ("x.jpg", b"1"), link("x.json", "common"))
    assert told(tmp_path, *members, kind=compression) == {"x.jpg": 9}


@pytest.mark.parametrize("data", [b"", b"garbage!" * 64 + tar_bytes(FILES), tar_bytes(FILES)[:-10240] + b"\0" * 512])
def test_what_is_no_whole_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ShardError):
        read(tmp_path, data)


def test_an_extended_header_of_any_size_takes_no_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 10 << 30
    with pytest.raises(ShardError, match="extended header"):
        read(tmp_path, header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))


def test_sizes_that_lead_back_end_a_walk(tmp_path: Path) -> None:
    first = tarfile.TarInfo("x.jpg")
    back = tarfile.TarInfo("y.jpg")
    back.pax_headers = {"size": "-1536"}
    data = first.tobuf(tarfile.PAX_FORMAT) + back.tobuf(tarfile.PAX_FORMAT) + bytes(10240)
    with pytest.raises(ShardError):
        read(tmp_path, data)
    with pytest.raises(ShardError):
        picked(tmp_path, data, "z.jpg")


def test_a_chain_of_long_names_is_refused_not_followed_for_ever(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 5
    with pytest.raises(ShardError):
        read(tmp_path, (header.tobuf(tarfile.GNU_FORMAT) + b"x.jpg" + bytes(507)) * 5000)


def test_old_recipes_keep_their_rules_and_new_ones_begin_with_the_new() -> None:
    assert Spec().rules == 1
    assert Spec.initial == {"skip_system": True, "rules": 2}
    assert Spec(rules=2).fingerprint != Spec().fingerprint
