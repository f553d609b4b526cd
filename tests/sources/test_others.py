"""What single kinds of source promise beyond the contract."""

from __future__ import annotations

from codecs import BOM_UTF8
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ShardError, UserError
from pipeline.core.stats import category
from pipeline.core.types import Image, Reject, Shard
from pipeline.sources import SourceSpec, filelist, folder, kapture, parquet
from pipeline.sources._detect import detect
from tests.builders import images, jpeg, tar_bytes, write_files, write_parquet

FILES = images(3)


def read(spec: SourceSpec, location: Path | str) -> list[Image | Reject]:
    source = spec.open(str(location))
    entries = list(source.listing())
    groups = [tuple(entries)] if spec.packs else [(entry,) for entry in entries]
    return [i for g in groups for i in source.images(Shard(id="", uri="", bytes=0, etag="", entries=g))]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_parquet_file_is_refused(tmp_path: Path, share: float) -> None:
    write_parquet(tmp_path / "a.parquet", FILES)
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ShardError, match="no sound Parquet"):
        read(parquet.Spec(), tmp_path)


def test_a_damaged_row_group_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", FILES, write_page_checksum=True)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[40:200] = bytes(160)
    (tmp_path / "a.parquet").write_bytes(bytes(data))
    with pytest.raises(ShardError):
        read(parquet.Spec(), tmp_path)


def test_plain_bytes_and_key_columns_are_found(tmp_path: Path) -> None:
    table = pa.table(
        {"name": list(FILES), "jpg": pa.array(list(FILES.values()), pa.large_binary()), "label": [1, 2, 3]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert [item.key for item in read(parquet.Spec(), tmp_path)] == [f"a.parquet/{n:09d}" for n in range(3)]
    assert [item.key for item in read(parquet.Spec(key_column="name"), tmp_path)] == [f"a.parquet/{n}" for n in FILES]


def test_a_file_without_an_image_column_lists_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ShardError, match="a, b"):
        read(parquet.Spec(), tmp_path)
    with pytest.raises(ShardError, match="no column 'c'"):
        read(parquet.Spec(image_column="c"), tmp_path)


def test_rows_without_bytes_are_rejected_with_their_path(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": None, "path": "x.jpg"}, None]
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "a.parquet")
    first, second = read(parquet.Spec(), tmp_path)
    assert isinstance(first, Reject)
    assert "x.jpg" in first.reason
    assert isinstance(second, Reject)
    assert second.reason == "is null"


def test_a_listed_file_that_is_not_there_is_a_reject(tmp_path: Path) -> None:
    write_files(tmp_path, FILES)
    (tmp_path / "l.txt").write_text("0000.jpg\nmissing.jpg\n0000.jpg\n")
    source = filelist.Spec().open(str(tmp_path / "l.txt"))
    assert [(e.path, e.etag == "missing") for e in source.listing()] == [("0000.jpg", False), ("missing.jpg", True)]
    assert source.skipped == 1
    found = read(filelist.Spec(), tmp_path / "l.txt")
    assert isinstance(found[1], Reject)
    assert found[1].reason == "no such file"


@pytest.mark.parametrize(
    "line",
    [
        "0000.jpg 3",
        "0000.jpg\t3\tcat",
        "0000.jpg,3",
        '"0000.jpg",3',
        "0000.jpg;3",
        "0000.jpg PINHOLE 64 48 50 50 32 24",
    ],
)
def test_a_label_after_a_path_is_recognised(tmp_path: Path, line: str) -> None:
    write_files(tmp_path, {**FILES, "with 3 words.jpg": jpeg(9)})
    (tmp_path / "l.txt").write_text(f"{line}\nnowhere.jpg 4\nwith 3 words.jpg\n")
    found = {item.key: item for item in read(filelist.Spec(), tmp_path / "l.txt")}
    labelled, nowhere = found[line], found["nowhere.jpg 4"]
    assert isinstance(labelled, Reject)
    assert labelled.reason == "no such file; the line seems to hold a label after the path '0000.jpg'"
    assert category(labelled.reason) == category(labelled.reason.replace("0000.jpg", "other.jpg"))
    assert isinstance(nowhere, Reject)
    assert nowhere.reason == "no such file"
    assert isinstance(found["with 3 words.jpg"], Image)


@pytest.mark.parametrize("line", ["sub\\0000.jpg", ".\\sub\\0000.jpg", "sub\\xe9.jpg", "caf\\café.jpg"])
def test_backslashes_of_windows_paths_are_recognised(tmp_path: Path, line: str) -> None:
    files = {"sub/0000.jpg": jpeg(0), "sub/xe9.jpg": jpeg(1), "caf/café.jpg": jpeg(2)}
    write_files(tmp_path, {**files, "as\\is.jpg": jpeg(3)})
    (tmp_path / "l.txt").write_text(f"{line}\r\nnowhere\\4.jpg\r\nas\\is.jpg\r\n", newline="")
    reasons = {item.key: item.reason for item in read(filelist.Spec(), tmp_path / "l.txt") if isinstance(item, Reject)}
    nowhere = reasons.pop("nowhere\\4.jpg")
    assert nowhere == "no such file"
    assert list(reasons.values()) == ['no such file; there is one of that name with "/" in place of each backslash']


@pytest.mark.parametrize("line", ['"0000.jpg"', "'0000.jpg'"])
def test_quotes_around_a_path_are_recognised(tmp_path: Path, line: str) -> None:
    write_files(tmp_path, {"0000.jpg": jpeg(0), '"as is.jpg"': jpeg(1)})
    (tmp_path / "l.txt").write_text(f'{line}\n"as is.jpg"\n"nowhere.jpg"\n')
    reasons = {item.key: item.reason for item in read(filelist.Spec(), tmp_path / "l.txt") if isinstance(item, Reject)}
    there = "no such file; there is one of that name without the quotes"
    assert reasons == {line: there, '"nowhere.jpg"': "no such file"}


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path, ends: str) -> None:
    write_files(tmp_path, FILES)
    (tmp_path / "l.txt").write_bytes(BOM_UTF8 + ends.join(FILES).encode())
    assert [item.key for item in read(filelist.Spec(), tmp_path / "l.txt")] == list(FILES)
    write_files(tmp_path / "k" / "sensors" / "records_data", FILES)
    rows = ["# kapture format: 1.1", *(f"{n}, cam, {name}" for n, name in enumerate(FILES))]
    for first in (0, 1):
        records = BOM_UTF8 + ends.join(rows[first:]).encode()
        (tmp_path / "k" / "sensors" / "records_camera.txt").write_bytes(records)
        assert [item.key for item in read(kapture.Spec(), tmp_path / "k")] == list(FILES)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_list_in_another_encoding_is_refused_in_one_line(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "l.txt").write_bytes("a.jpg\nb\u00e9.jpg\n".encode(encoding))
    with pytest.raises(UserError, match=r"l\.txt: is UTF-16 text; save it as UTF-8") as caught:
        filelist.Spec().open(str(tmp_path / "l.txt"))
    assert "\n" not in str(caught.value)


def test_a_list_may_have_another_root_and_absolute_paths_beneath_it(tmp_path: Path) -> None:
    write_files(tmp_path / "images", FILES)
    (tmp_path / "l.txt").write_text(f"{tmp_path}/images/0001.jpg\n0002.jpg\n")
    found = read(filelist.Spec(root=str(tmp_path / "images")), tmp_path / "l.txt")
    assert [item.key for item in found] == ["0001.jpg", "0002.jpg"]
    assert filelist.Spec(root="x").fingerprint == filelist.Spec().fingerprint


@pytest.mark.parametrize("line", ["/etc/passwd", "../x.jpg", "http://host/x.jpg"])
def test_paths_outside_the_root_are_refused_by_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "l.txt").write_text(f"ok.jpg\n{line}\n")
    with pytest.raises(UserError, match=r"l\.txt line 2"):
        filelist.Spec().open(str(tmp_path / "l.txt"))


def test_a_malformed_kapture_line_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, {"sensors/records_camera.txt": b"# kapture\n1, cam, a.jpg\n2, cam\n"})
    with pytest.raises(UserError, match="line 3"):
        kapture.Spec().open(str(tmp_path))


def test_folders_count_what_they_pass_over_and_suffixes_have_any_case(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.JPG": b"x", "b.Jpeg": b"x", "c.txt": b"x", "d": b"x"})
    source = folder.Spec().open(str(tmp_path))
    assert [entry.path for entry in source.listing()] == ["a.JPG", "b.Jpeg"]
    assert source.skipped == 2


def test_a_file_that_vanishes_is_a_reject(tmp_path: Path) -> None:
    write_files(tmp_path, FILES)
    source = folder.Spec().open(str(tmp_path))
    entries = tuple(source.listing())
    (tmp_path / "0001.jpg").unlink()
    found = list(source.images(Shard(id="", uri="", bytes=0, etag="", entries=entries)))
    assert [type(item) for item in found] == [Image, Reject, Image]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "is empty"),
        ({"a.txt": b"x"}, "holds no images"),
        ({"a.heic": b"x", "b.HEIC": b"x", "c/d": b"x"}, r"holds no images, .* files, only \.heic 2, no suffix 1;"),
        ({"a.jpg": b"x", "b.tar": b"x"}, "1 tar files, 1 image files"),
    ],
)
def test_a_source_that_could_be_anything_is_asked_about(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    write_files(tmp_path, files)
    with pytest.raises(UserError, match=words):
        detect(str(tmp_path))


def test_a_folder_of_links_that_lead_nowhere_is_not_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "away" / "a.jpg")
    with pytest.raises(UserError, match="only links that lead nowhere, pipes or devices 1"):
        detect(str(tmp_path))


def test_single_files_are_recognised(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.tar": tar_bytes(FILES), "list.txt": b"a.jpg\n", "x.bin": b""})
    assert detect(str(tmp_path / "a.tar")) == "tar"
    assert detect(str(tmp_path / "list.txt")) == "filelist"
    with pytest.raises(UserError, match="no known kind"):
        detect(str(tmp_path / "x.bin"))
