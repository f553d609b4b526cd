"""Compressed archives: known by their first bytes, read as streams, bounded, judged by what they unpack to."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.core.errors import ShardError
from pipeline.core.types import Entry, Image, Reject, Shard
from pipeline.sources._compressed import HEAD, Decompressed, codec_of
from pipeline.sources._detect import detect
from pipeline.sources.tar import Spec, TarSource
from tests.builders import images, tar_bytes, write_files

FILES = images(3)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
}
SUFFIXES = {"gzip": ("tar.gz", "tgz"), "bz2": ("tar.bz2", "tbz2"), "xz": ("tar.xz", "txz"), "zstd": ("tar.zst", "tzst")}


def source_of(folder: Path, name: str = "a.tar") -> tuple[TarSource, Shard]:
    source = Spec(rules=2).open(str(folder))
    entry = next(entry for entry in source.listing() if entry.path == name)
    return source, Shard(id="1", uri="", bytes=entry.size, etag="", entries=(entry,))


def read(folder: Path, data: bytes) -> list[Image | Reject]:
    (folder / "a.tar").write_bytes(data)
    source, shard = source_of(folder)
    return list(source.images(shard))


@pytest.mark.parametrize("codec", CODECS)
def test_an_archive_is_read_by_its_bytes_whatever_its_name(tmp_path: Path, codec: str) -> None:
    data = CODECS[codec](tar_bytes(FILES))
    assert codec_of(data[:HEAD]) == codec
    names = ["plain.tar", *(f"{suffix}.{suffix}" for suffix in SUFFIXES[codec])]
    write_files(tmp_path, dict.fromkeys(names, data))
    assert detect(str(tmp_path / names[-1])) == "tar"
    for name in names:
        source, shard = source_of(tmp_path, name)
        items = list(source.images(shard))
        assert [(item.key, item.data) for item in items if isinstance(item, Image)] == [
            (f"{name}/{key}", value) for key, value in FILES.items()
        ]
        assert all(item.span is None for item in items if isinstance(item, Image))
        assert source.pick(f"{name}/0001.jpg", f"{tmp_path}/{name}#0001.jpg") == FILES["0001.jpg"]
        assert source.pick(f"{name}/none.jpg", f"{tmp_path}/{name}#none.jpg") is None


@pytest.mark.parametrize("codec", CODECS)
def test_several_streams_are_one(tmp_path: Path, codec: str) -> None:
    data = tar_bytes(FILES)
    parts = CODECS[codec](data[:700]) + CODECS[codec](data[700:])
    assert len(read(tmp_path, parts)) == len(FILES)


@pytest.mark.parametrize("codec", ["gzip", "bz2", "xz"])
def test_zeros_behind_the_data_are_padding(tmp_path: Path, codec: str) -> None:
    assert len(read(tmp_path, CODECS[codec](tar_bytes(FILES)) + bytes(4096))) == len(FILES)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("left", [0.1, 0.5, 0.9, 0.999])
def test_data_that_breaks_off_is_refused(tmp_path: Path, codec: str, left: float) -> None:
    data = CODECS[codec](tar_bytes(FILES))
    with pytest.raises(ShardError):
        read(tmp_path, data[: int(left * len(data))])


@pytest.mark.parametrize("codec", CODECS)
def test_anything_else_behind_the_data_is_refused(tmp_path: Path, codec: str) -> None:
    with pytest.raises(ShardError):
        read(tmp_path, CODECS[codec](tar_bytes(FILES)) + b"something else, and more of it")


@pytest.mark.parametrize("codec", CODECS)
def test_a_changed_byte_is_refused_or_harmless(tmp_path: Path, codec: str) -> None:
    data = bytearray(CODECS[codec](tar_bytes(FILES)))
    data[len(data) // 2] ^= 0x55
    try:
        items = read(tmp_path, bytes(data))
    except ShardError:
        return
    assert codec == "zstd", "others check what they unpack to"
    assert len(items) == len(FILES)


@pytest.mark.parametrize("codec", CODECS)
def test_the_end_of_the_archive_is_judged_by_what_it_unpacks_to(tmp_path: Path, codec: str) -> None:
    whole = tar_bytes(FILES)
    with pytest.raises(ShardError, match="end-of-archive"):
        read(tmp_path, CODECS[codec](whole[: len(whole.rstrip(b"\0")) // 512 * 512 + 512]))
    with pytest.raises(ShardError, match="after its end"):
        read(tmp_path, CODECS[codec](whole + whole))


def test_a_file_that_grew_since_it_was_listed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(tar_bytes(FILES)))
    source, shard = source_of(tmp_path)
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(ShardError, match="listed"):
        list(source.images(shard))


@pytest.mark.parametrize("codec", CODECS)
def test_what_unpacks_to_too_much_is_refused(codec: str) -> None:
    data = CODECS[codec](bytes(8 << 20))
    stream = Decompressed(io.BytesIO(data), codec, len(data), most=1 << 20)
    with pytest.raises(ShardError, match="unpacks to more"):
        shutil.copyfileobj(stream, io.BytesIO(), 1 << 16)


def test_a_member_that_promises_more_than_an_archive_can_unpack_to_ends_at_once(tmp_path: Path) -> None:
    member = tarfile.TarInfo("x.jpg")
    member.size = 10**18
    with pytest.raises(ShardError, match="unpacks to more"):
        read(tmp_path, gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096)))


def test_reading_holds_little_of_what_it_unpacks() -> None:
    data = gzip.compress(bytes(64 << 20))
    stream = Decompressed(io.BytesIO(data), "gzip", len(data))
    sizes = [len(part) for part in iter(lambda: stream.read(1 << 16), b"")]
    assert max(sizes) <= 1 << 16
    assert sum(sizes) == 64 << 20


@pytest.mark.parametrize(
    ("data", "name"), [(b"PK\x03\x04" + bytes(600), "zip"), (b"7z\xbc\xaf\x27\x1c" + bytes(600), "7z")]
)
def test_other_formats_are_named(tmp_path: Path, data: bytes, name: str) -> None:
    with pytest.raises(ShardError, match=f"is {name} data"):
        read(tmp_path, data)


def test_a_member_may_be_named_like_the_mark_of_a_compression(tmp_path: Path) -> None:
    assert [item.key for item in read(tmp_path, tar_bytes({"BZh9.jpg": b"1"}))] == ["a.tar/BZh9.jpg"]


def test_compressed_archives_are_listed_by_the_new_rules_only(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.tar": b"", "b.tar.gz": b"", "c.gz": b"", "d.TGZ": b""})

    def listed(spec: Spec) -> list[Entry]:
        return list(spec.open(str(tmp_path)).listing())

    assert [entry.path for entry in listed(Spec(rules=2))] == ["a.tar", "b.tar.gz", "d.TGZ"]
    assert [entry.path for entry in listed(Spec())] == ["a.tar"]


def test_a_backup_beside_images_does_not_make_a_folder_ambiguous(tmp_path: Path) -> None:
    write_files(tmp_path, {"backup.tar.gz": b"", "x.jpg": b""})
    assert detect(str(tmp_path)) == "folder"
    (tmp_path / "x.jpg").unlink()
    assert detect(str(tmp_path)) == "tar"


def test_raw_deflate_is_nothing_known() -> None:
    assert codec_of(zlib.compress(b"x")[:HEAD]) == ""
