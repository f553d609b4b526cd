"""Files that were copied, restored or checked out again: read once, described never, published as they were."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core import memory
from pipeline.core.memory import MemoryStore
from pipeline.publish.listing import SCHEMA, NewListing
from pipeline.publish.lists import load_lists
from pipeline.stages.commit import Proposal, transact
from tests.builders import tar_bytes, write_files
from tests.faulty import Watched
from tests.life import RECIPE, Life, digests, in_memory, toy_kinds

IMAGES = {f"{n}.jpg": f"image {n}".encode() for n in range(7)} | {"bad.jpg": b"bad image"}
WITH_SIDES = {
    name: data
    for n in range(7)
    for name, data in ((f"{n}.jpg", f"image {n}".encode()), (f"{n}.txt", f"text {n}".encode()))
}


def table(contents: list[bytes]) -> pa.Table:
    return pa.table({"image": pa.array(contents, pa.binary())})


def parquet(contents: list[bytes]) -> bytes:
    out = io.BytesIO()
    # Uncompressed, so that other bytes take as much room.
    pq.write_table(table(contents), out, compression="none", use_dictionary=False, write_statistics=False)
    return out.getvalue()


def arrow(contents: list[bytes]) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table([]).schema) as writer:
        writer.write_table(table(contents))
    return out.getvalue()


def packed(folder: Path, images: dict[str, bytes]) -> None:
    write_files(folder, images)


def listed(folder: Path, images: dict[str, bytes]) -> None:
    write_files(folder, images)
    (folder / "list.txt").write_text("\n".join(images))


def kapture(folder: Path, images: dict[str, bytes]) -> None:
    write_files(folder / "sensors/records_data", images)
    lines = [f"{n}, cam, {name}" for n, name in enumerate(images)]
    (folder / "sensors/records_camera.txt").write_text("\n".join(lines) + "\n")


def tar(folder: Path, images: dict[str, bytes]) -> None:
    write_files(folder, {"a.tar": tar_bytes(images), "b.tar": tar_bytes({"x.jpg": b"of another tar"})})


def parquets(folder: Path, images: dict[str, bytes]) -> None:
    write_files(folder, {"a.parquet": parquet(list(images.values()))})


def arrows(folder: Path, images: dict[str, bytes]) -> None:
    write_files(folder, {"a.arrow": arrow(list(images.values()))})


LAYOUTS: dict[str, tuple[str, Callable[[Path, dict[str, bytes]], None]]] = {
    "folder": ("", packed),
    "filelist": ("list.txt", listed),
    "kapture": ("", kapture),
    "tar": ("", tar),
    "parquet": ("", parquets),
    "arrow": ("", arrows),
}


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    (tmp_path / "toy.toml").write_text(RECIPE)
    with toy_kinds():
        yield Life(source=str(tmp_path / "src"), root=str(tmp_path / "root"), recipe=str(tmp_path / "toy.toml"))


def touch(folder: Path, seconds: int = 0) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (1_000_000_000 + seconds, 1_000_000_000 + seconds))


def described(report: Any) -> float:
    return float(report.stats.get("images", 0) + report.stats.get("rejected", 0))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_touched_files_are_read_once_and_not_described(life: Life, tmp_path: Path, kind: str) -> None:
    name, write = LAYOUTS[kind]
    life.kind, life.source = kind, str(tmp_path / "src" / name)
    write(tmp_path / "src", IMAGES)
    first = life.index()
    live = life.live()
    touch(tmp_path / "src")
    report = life.index()
    assert described(report) == 0
    assert (report.images["added"], report.images["removed"]) == (0, 0)
    assert {**report.images, "added": 0} == {**first.images, "added": 0}
    assert (report.plan.count("add"), report.plan.count("keep")) == (0, 0)
    life.check()
    assert life.live() == live
    again = life.index()
    assert (again.published, again.plan.changes, again.snapshot) == (False, False, report.snapshot)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_of_touched_files_those_of_other_bytes_are_described(life: Life, tmp_path: Path, kind: str) -> None:
    name, write = LAYOUTS[kind]
    life.kind, life.source = kind, str(tmp_path / "src" / name)
    write(tmp_path / "src", IMAGES)
    life.index()
    changed = {**IMAGES, "3.jpg": b"IMAGE 3", "bad.jpg": b"now sound"}
    write(tmp_path / "src", changed)
    touch(tmp_path / "src")
    report = life.index()
    life.check()
    assert sorted(life.live().values()) == sorted(
        [*digests({k: v.decode() for k, v in changed.items()}).values()]
        + ([*digests({"x": "of another tar"}).values()] if kind == "tar" else [])
    )
    if kind in ("folder", "filelist", "kapture"):
        assert report.stats["images"] == 2
        assert (report.images["added"], report.images["removed"]) == (2, 1)
    elif kind == "tar":
        assert report.plan.count("renew") == 1, "the other tar stays"


def rewritten(folder: Path, write: Callable[[], None]) -> None:
    """Write files again so that sizes and modification times are what they were."""
    before = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    write()
    for path, stat in before.items():
        assert path.stat().st_size == stat.st_size
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_what_is_rewritten_in_place_with_its_size_and_time_is_indexed(life: Life, tmp_path: Path, kind: str) -> None:
    name, write = LAYOUTS[kind]
    life.kind, life.source = kind, str(tmp_path / "src" / name)
    write(tmp_path / "src", IMAGES)
    life.index()
    before = set(life.live().values())
    changed = {**IMAGES, "3.jpg": b"IMAGE 3"}
    rewritten(tmp_path / "src", lambda: write(tmp_path / "src", changed))
    report = life.index()
    life.check()
    old, new = (hashlib.sha256(data).hexdigest() for data in (b"image 3", b"IMAGE 3"))
    assert set(life.live().values()) == before - {old} | {new}
    assert report.published
    if kind in ("folder", "filelist", "kapture"):
        assert report.stats["images"] == 1
    again = life.index()
    assert (again.published, again.plan.changes) == (False, False)
    # And back again: the first bytes lie in a shard that has a record.
    rewritten(tmp_path / "src", lambda: write(tmp_path / "src", IMAGES))
    assert life.index().published
    life.check()
    assert set(life.live().values()) == before


def chmod(path: Path) -> None:
    path.chmod(0o600)


def hard_link(path: Path) -> None:
    source = next(folder for folder in path.parents if folder.name == "src")
    os.link(path, source.with_name(f"link-{path.name}"))


def rename_over(path: Path) -> None:
    """As rsync and others put a file into its place, with the time that it had."""
    other = path.with_name(f".{path.name}.part")
    shutil.copy2(path, other)
    other.replace(path)


def away_and_back(path: Path) -> None:
    away = path.with_name(f"{path.name}.away")
    path.rename(away)
    away.rename(path)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("change", [chmod, hard_link, rename_over, away_and_back])
def test_what_changes_a_file_and_not_its_bytes_costs_a_reading_and_no_description(
    life: Life, tmp_path: Path, kind: str, change: Callable[[Path], None]
) -> None:
    name, write = LAYOUTS[kind]
    life.kind, life.source = kind, str(tmp_path / "src" / name)
    write(tmp_path / "src", IMAGES)
    first = life.index()
    live = life.live()
    files = [path for path in sorted((tmp_path / "src").rglob("*")) if path.suffix[1:] in ("jpg", kind)]
    for path in files:
        change(path)
    report = life.index()
    assert described(report) == 0
    assert (report.plan.count("renew"), report.plan.count("add")) == (len(files), 0)
    assert {**report.images, "added": 0} == {**first.images, "added": 0}
    assert life.live() == live
    life.check()
    again = life.index()
    assert (again.published, again.plan.changes, again.snapshot) == (False, False, report.snapshot)


def test_where_every_ctime_changes_all_the_time_it_may_be_ignored(life: Life, tmp_path: Path) -> None:
    packed(tmp_path / "src", IMAGES)
    life.index()
    for path in (tmp_path / "src").iterdir():
        path.chmod(0o600)
    report = life.index(ignore_ctime=True)
    assert (report.published, report.plan.changes) == (False, False)
    assert life.index().plan.count("renew") == len(IMAGES)


def test_a_corrupt_archive_that_is_mended_in_place_with_its_size_and_time_is_tried_again(
    life: Life, tmp_path: Path
) -> None:
    life.kind = "tar"
    tar(tmp_path / "src", IMAGES)
    whole = (tmp_path / "src" / "a.tar").read_bytes()
    (tmp_path / "src" / "a.tar").write_bytes(whole[:700] + b"x" * (len(whole) - 700))
    assert [failure.path for failure in life.index().failures] == ["a.tar"]
    assert [failure.path for failure in life.index().failures] == ["a.tar"]
    rewritten(tmp_path / "src", lambda: tar(tmp_path / "src", IMAGES))
    report = life.index()
    assert (report.exit_code, report.failures, report.images["indexed"]) == (0, (), 8)


def test_a_listing_of_an_older_release_is_compared_as_before_and_completed_by_the_next_publication(
    life: Life, tmp_path: Path
) -> None:
    packed(tmp_path / "src", IMAGES)
    life.index()
    forget_changes(life)
    rewritten(tmp_path / "src", lambda: packed(tmp_path / "src", {**IMAGES, "3.jpg": b"IMAGE 3"}))
    assert life.index().published is False, "nothing says that it has changed"
    packed(tmp_path / "src", {"new.jpg": b"image new"})
    assert life.index().plan.count("keep") == 8
    assert None not in changes(life)
    rewritten(tmp_path / "src", lambda: packed(tmp_path / "src", {"new.jpg": b"IMAGE new"}))
    assert life.index().stats["images"] == 2, "the time of 3.jpg was set once more, so that it is compared at last"


def changes(life: Life) -> list[int | None]:
    """What the head's listing says of when files last changed."""
    lists = load_lists(life.catalog, life.catalog.require_head())
    return [row["changed"] for batch in lists.listing.batches() for row in batch.to_pylist()]


def forget_changes(life: Life) -> None:
    """Publish the head again as a release would that knows no such column."""
    catalog = life.catalog
    head = catalog.require_head()
    lists = load_lists(catalog, head)
    older = NewListing()
    for batch in lists.listing.batches():
        rows = batch.to_pylist()
        older.append(pa.RecordBatch.from_pylist([{**row, "changed": None} for row in rows], schema=SCHEMA))
    proposal = Proposal(
        lists=replace(lists, listing=older.finish()), recipe=head.recipe, source=head.source, summary=head.summary
    )
    transact(catalog, head, lambda _: proposal, writer="older")
    assert set(changes(life)) == {None}


def test_touched_files_that_are_deleted_stay_so_also_after_compaction(life: Life, tmp_path: Path) -> None:
    packed(tmp_path / "src", IMAGES)
    life.index()
    life.delete("1.jpg")
    for seconds in range(2):
        touch(tmp_path / "src", seconds)
        report = life.index()
        assert (described(report), report.plan.count("renew")) == (0, 8)
        life.check()
        assert "1.jpg" not in life.live()
        life.compact()
    life.restore("1.jpg")
    life.index()
    life.check()
    assert "1.jpg" in life.live()


def test_a_touched_tar_that_lost_deleted_rows_by_compaction_is_as_it_was(life: Life, tmp_path: Path) -> None:
    life.kind = "tar"
    tar(tmp_path / "src", IMAGES)
    life.index()
    life.delete("a.tar/1.jpg")
    life.compact()
    touch(tmp_path / "src")
    report = life.index()
    assert (described(report), report.plan.count("renew")) == (0, 2)
    life.check()


def test_other_metadata_of_equal_images_is_a_change(life: Life, tmp_path: Path) -> None:
    life.kind = "tar"
    (tmp_path / "toy.toml").write_text(RECIPE + '[source]\nkind = "tar"\nmetadata = { txt = "string" }\n')
    tar(tmp_path / "src", WITH_SIDES)
    life.index()
    touch(tmp_path / "src")
    assert described(life.index()) == 0
    tar(tmp_path / "src", {**WITH_SIDES, "2.txt": b"TEXT 2"})
    report = life.index()
    assert report.plan.count("renew") == 1
    assert described(report) == 7
    life.check()


def test_what_cannot_be_read_is_left_to_extraction() -> None:
    with in_memory() as here:
        store = Etags(here.images.url)
        memory.register(here.images.url.removeprefix("memory://"), store)
        for name, data in IMAGES.items():
            store.write(name, data)
        here.life.index()
        store.generation = "2"
        failing = Watched(store, Failing("3.jpg"))
        memory.register(here.images.url.removeprefix("memory://"), failing)
        report = here.life.index()
        assert (report.exit_code, report.plan.count("renew"), report.plan.count("add")) == (4, 7, 1)
        here.life.check()
        assert len(here.life.live()) == 7, "what could not be read stays as it was"
        memory.register(here.images.url.removeprefix("memory://"), store)
        report = here.life.index()
        assert (report.exit_code, report.plan.count("renew"), described(report)) == (0, 1, 0)
        assert here.life.index().published is False


def test_files_whose_descriptors_were_all_deleted_and_compacted_away_cost_the_others_nothing() -> None:
    with in_memory() as here:
        store = Etags(here.images.url)
        memory.register(here.images.url.removeprefix("memory://"), store)
        for name, data in IMAGES.items():
            store.write(name, data)
        here.life.index()
        lists = load_lists(here.life.catalog, here.life.catalog.require_head())
        shard = lists.descriptors["shard_id"][0].as_py()
        rows = [row for batch in lists.listing.batches() for row in batch.to_pylist()]
        here.life.delete(*(row["path"] for row in rows if row["shard"] == shard))
        here.life.compact()
        live = here.life.live()
        store.generation = "2"
        report = here.life.index()
        assert report.stats["images"] == 0, "of what is live nothing is described again"
        here.life.check()
        assert here.life.live() == live


class Etags(MemoryStore):
    """A store whose etags change without the bytes, as a time does."""

    generation = "1"

    def stat(self, name: str) -> Any:
        entry = super().stat(name)
        return type(entry)(path=entry.path, size=entry.size, etag=entry.etag + self.generation)


class Failing:
    """Reads of one file fail, in a way that no retry of the store mends."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, kind: str, name: str, carry_out: Callable[[], Any]) -> Any:
        if kind == "read" and name == self.name:
            raise MemoryError
        return carry_out()
