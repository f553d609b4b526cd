from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from pipeline.core.errors import ShardError
from pipeline.core.types import Image, Reject, Shard
from pipeline.sources.tar import Spec
from tests.builders import images, tar_bytes

FILES = images(3)


def read(folder: Path, data: bytes) -> list[Image | Reject]:
    (folder / "a.tar").write_bytes(data)
    source = Spec().open(str(folder))
    (entry,) = source.listing()
    return list(source.images(Shard(id="1", uri="", bytes=0, etag="", entries=(entry,))))


def with_member(member: tarfile.TarInfo, data: bytes = b"", kind: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return out.getvalue()


def end_of_members(data: bytes) -> int:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.offset if archive.getmembers() else 0


def cuts() -> dict[str, int]:
    data = tar_bytes(FILES)
    first = len(next(iter(FILES.values())))
    end = end_of_members(data)
    return {
        "inside the first header": 100,
        "between header and data": 512,
        "inside the data": 512 + first // 2,
        "inside the padding": 512 + first + 1,
        "inside a later header": end - 2000,
        "after the last member": end,
        "inside the end blocks": end + 512,
    }


@pytest.mark.parametrize("where", list(cuts()))
def test_a_truncated_archive_is_refused_wherever_it_is_cut(tmp_path: Path, where: str) -> None:
    with pytest.raises(ShardError):
        read(tmp_path, tar_bytes(FILES)[: cuts()[where]])


def test_images_before_the_cut_are_yielded_first(tmp_path: Path) -> None:
    data = tar_bytes(FILES)
    (tmp_path / "a.tar").write_bytes(data[: end_of_members(data)])
    source = Spec().open(str(tmp_path))
    (entry,) = source.listing()
    stream = source.images(Shard(id="1", uri="", bytes=0, etag="", entries=(entry,)))
    assert [next(stream).key for _ in FILES] == [f"a.tar/{name}" for name in FILES]
    with pytest.raises(ShardError, match="truncated"):
        next(stream)


def test_a_header_with_a_wrong_checksum_is_not_taken_for_the_end(tmp_path: Path) -> None:
    data = bytearray(tar_bytes(FILES))
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as archive:
        second = archive.getmembers()[1].offset
    data[second + 5] ^= 0xFF
    with pytest.raises(ShardError, match="header"):
        read(tmp_path, bytes(data))


def test_concatenated_archives_are_refused_not_cut_short(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="after its end"):
        read(tmp_path, tar_bytes(FILES) + tar_bytes(FILES))


def test_an_archive_with_extra_zero_padding_is_whole(tmp_path: Path) -> None:
    assert len(read(tmp_path, tar_bytes(FILES) + bytes(1 << 20))) == len(FILES)


def test_a_file_that_grew_since_it_was_listed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(FILES))
    source = Spec().open(str(tmp_path))
    (entry,) = source.listing()
    path.write_bytes(tar_bytes(FILES) + bytes(10240))
    with pytest.raises(ShardError, match="listed"):
        list(source.images(Shard(id="1", uri="", bytes=0, etag="", entries=(entry,))))


@pytest.mark.parametrize("data", [b"", b"x", b"not a tar at all" * 100, b"\x1f\x8b" + bytes(2000)])
def test_something_else_named_tar_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ShardError):
        read(tmp_path, data)


def test_an_empty_archive_holds_no_images(tmp_path: Path) -> None:
    assert read(tmp_path, tar_bytes({})) == []


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/x.jpg",
        "/abs/x.jpg",
        "C:\\x.jpg",
        "a\nb.jpg",
        "é.jpg",
        "e\u0301.jpg",
        "🖼.jpg",
        "-rf.jpg",
        "%2e%2e/x.jpg",
        "<img onerror=alert(1)>.jpg",
        "=cmd.jpg",
        "x" * 255 + ".jpg",
        "p/" * 2000 + "x.jpg",
        ".hidden.jpg",
    ],
)
def test_member_names_are_labels(tmp_path: Path, name: str) -> None:
    (item,) = read(tmp_path, tar_bytes({name: b"data"}))
    assert item.key == f"a.tar/{name}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar"]


def test_a_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    member = tarfile.TarInfo("caf\udce9.jpg")
    member.size = 4
    (item,) = read(tmp_path, with_member(member, b"data", tarfile.GNU_FORMAT))
    assert item.key == "a.tar/caf\\xe9.jpg"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_named_like_images_are_rejected_unread(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("x.jpg")
    member.type, member.linkname = kind, "/etc/hostname"
    (item,) = read(tmp_path, with_member(member))
    assert isinstance(item, Reject)
    assert "regular" in item.reason


def test_a_header_that_promises_more_than_there_is_ends_at_once(tmp_path: Path) -> None:
    member = tarfile.TarInfo("x.jpg")
    member.size = 10**18
    header = member.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(ShardError, match="truncated"):
        read(tmp_path, header + bytes(4096))


def test_other_members_are_passed_over(tmp_path: Path) -> None:
    found = read(tmp_path, tar_bytes({"a.json": b"{}", "a.jpg": b"x", "a.txt": b"y"}))
    assert [item.key for item in found] == ["a.tar/a.jpg"]


def test_a_single_archive_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "only.tar").write_bytes(tar_bytes(FILES))
    source = Spec().open(str(tmp_path / "only.tar"))
    (entry,) = source.listing()
    found = list(source.images(Shard(id="1", uri="", bytes=0, etag="", entries=(entry,))))
    assert [item.key for item in found] == [f"only.tar/{name}" for name in FILES]
