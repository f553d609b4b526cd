"""Files that take much memory are named before they are read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.source_notes import LOOK, source_notes
from pipeline.publish.lists import EMPTY
from pipeline.publish.packing import Packing
from pipeline.publish.plan import Plan, make_plan
from pipeline.sources import folder, parquet
from pipeline.sources.parquet import LARGE_GROUP, large_group
from tests.builders import images, write_files, write_parquet


def planned(source: Path, packing: Packing | None = None) -> Plan:
    opened = (folder.Spec() if packing else parquet.Spec()).open(str(source))
    return make_plan(opened.listing(), EMPTY.listing, source=str(source), packing=packing)


def test_a_large_row_group_is_named_with_what_to_do(tmp_path: Path) -> None:
    write_parquet(tmp_path / "p.parquet", images(40), row_group_size=30)
    metadata = pq.read_metadata(tmp_path / "p.parquet")
    size = metadata.row_group(0).total_byte_size
    assert large_group(metadata, "p.parquet", limit=size) == ""
    line = large_group(metadata, "p.parquet", limit=size - 1)
    assert line.startswith("p.parquet has a row group of 30 rows and")
    assert line.endswith("write it with row_group_size=7")


def test_the_largest_new_files_are_looked_at(tmp_path: Path) -> None:
    # All of one value: large for whoever reads it, small on disk.
    zeros = pa.array([bytes(LARGE_GROUP // 64)] * 65, pa.binary())
    pq.write_table(pa.table({"image": zeros}), tmp_path / "large.parquet", use_dictionary=False)
    for number in range(LOOK):
        write_parquet(tmp_path / f"{number}.parquet", images(1))
    (tmp_path / "broken.parquet").write_bytes(b"x" * 20_000)
    (line,) = source_notes(planned(tmp_path), parquet.Spec(), str(tmp_path), large=0)
    assert line.startswith("large.parquet has a row group of 65 rows and 273 MB")
    assert source_notes(planned(tmp_path), parquet.Spec(), str(tmp_path)) == []


def test_single_images_have_no_notes(tmp_path: Path) -> None:
    write_files(tmp_path, images(2))
    assert source_notes(planned(tmp_path, Packing()), folder.Spec(), str(tmp_path), large=0) == []


def test_very_many_single_files_of_an_object_store_are_better_packed(tmp_path: Path) -> None:
    plan = planned(write_files(tmp_path, images(3)), Packing())
    distant = "s3://bucket/images?endpoint=http://127.0.0.1:9"
    (line,) = source_notes(plan, folder.Spec(), distant, many=2)
    assert line.startswith("3 single files are read from an object store by a request each; ")
    assert "tar or Parquet" in line
    assert source_notes(plan, folder.Spec(), distant, many=3) == []
    assert source_notes(plan, folder.Spec(), distant) == []
    assert source_notes(plan, folder.Spec(), str(tmp_path), many=2) == [], "a local file costs little"
