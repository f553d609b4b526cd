"""Archives from end to end: what a run indexes and says of them, and what a picture of theirs costs to read."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.index_report import index_json, index_lines
from jobs.pictures import Pictures
from jobs.recipe import RecipeOptions
from pipeline.core.errors import UserError
from pipeline.core.local import LocalStore
from pipeline.core.memory import MemoryStore, register
from pipeline.core.retry import RetryingStore
from pipeline.core.types import Entry, Reject
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import load_lists
from pipeline.rejects import read_rejects
from pipeline.search.engine import SearchIndex
from pipeline.search.originals import Originals
from pipeline.search.query import QueryExtractor
from pipeline.stages.device import choose_device
from tests.builders import images, jpeg, run, tar_bytes, write_files
from tests.serve.served import served

PLAIN = RecipeOptions(recipe="hsv-histogram", indexes=("flat",))
BEFORE = '[source]\nkind = "tar"\nrules = 1\n[extractor]\nkind = "histogram"\nspace = "hsv"\n[indexes.flat]\n'
"""A recipe as releases wrote it that had no rules for archives."""


def appended(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def rejects_of(root: Path) -> list[Reject]:
    catalog = Catalog(LocalStore(str(root)))
    lists = load_lists(catalog, catalog.require_head())
    found = manifests.artifact_column(lists.descriptors, "rejects")
    return [reject for artifact in found for reject in read_rejects(root / artifact.uri)]


def score(root: Path, key: str, data: bytes) -> float:
    """The cosine of what is stored by a key with an image."""
    with SearchIndex.open(str(root)) as index:
        extractor = QueryExtractor(LocalStore(str(root)), index.snapshot.recipe, choose_device("cpu"))
        place = index.place(key)
        assert place is not None
        stored = index.stored.vectors(np.array(place[:1]), np.array(place[1:]))
        return float(stored[0] @ extractor.vector(data, "query"))


def original(root: Path, key: str) -> bytes:
    with SearchIndex.open(str(root)) as index:
        row = index.row(key)
        assert row is not None
        source = Originals(index.snapshot.recipe.source, index.snapshot.source)
        return source.read(row.key, row.uri, row.sha256, row.span)


def test_keys_leave_the_dot_out_and_are_served(tmp_path: Path) -> None:
    files = images(3)
    write_files(tmp_path / "src", {"a.tar": appended(*((f"./{name}", data) for name, data in files.items()))})
    run(tmp_path / "src", tmp_path / "root", recipe=PLAIN)
    with served(tmp_path / "root") as site:
        for name in files:
            assert site.client.get(f"/similar/a.tar/{name}").status_code == 200
            assert site.client.get(f"/images/a.tar/{name}").status_code == 200


def test_the_last_of_equal_members_counts_and_only_equal_bytes_are_duplicates(tmp_path: Path) -> None:
    members = (("./x.jpg", jpeg(1)), ("x.jpg", jpeg(2)), ("x.jpg", jpeg(2)))
    write_files(tmp_path / "src", {"a.tar": appended(*members)})
    counts = run(tmp_path / "src", tmp_path / "root", recipe=PLAIN).images
    assert (counts["indexed"], counts["rejected"], counts["duplicates"], counts["seen"]) == (1, 1, 1, 3)
    assert score(tmp_path / "root", "a.tar/x.jpg", jpeg(2)) == pytest.approx(1.0, abs=2e-3)
    assert original(tmp_path / "root", "a.tar/x.jpg") == jpeg(2)
    assert {(item.status, item.reason) for item in rejects_of(tmp_path / "root")} == {
        ("rejected", "a later member has the same name"),
        ("duplicate", "a later member has the same name and the same bytes"),
    }


def test_a_later_member_that_is_no_image_leaves_none(tmp_path: Path) -> None:
    members = (("x.jpg", jpeg(1)), ("y.jpg", jpeg(2)), ("x.jpg", b"broken"))
    write_files(tmp_path / "src", {"a.tar": appended(*members)})
    counts = run(tmp_path / "src", tmp_path / "root", recipe=PLAIN).images
    assert (counts["indexed"], counts["rejected"], counts["duplicates"], counts["seen"]) == (1, 2, 0, 3)
    with SearchIndex.open(str(tmp_path / "root")) as index:
        assert index.row("a.tar/x.jpg") is None


def test_a_recipe_from_before_keeps_its_keys_and_goes_on_with_the_first(tmp_path: Path) -> None:
    (tmp_path / "before.toml").write_text(BEFORE)
    members = (("./x.jpg", jpeg(1)), ("./x.jpg", jpeg(2)), ("./x.jpg", jpeg(1)))
    source, root = write_files(tmp_path / "src", {"a.tar": appended(*members)}), tmp_path / "root"
    counts = run(source, root, recipe=RecipeOptions(recipe=str(tmp_path / "before.toml"))).images
    assert (counts["indexed"], counts["rejected"], counts["duplicates"], counts["seen"]) == (1, 1, 1, 3)
    write_files(source, {"b.tar": appended(("./y.jpg", jpeg(3)), ("./y.jpg", jpeg(4))), "c.tar.gz": b"not listed"})
    assert run(source, root, recipe=RecipeOptions()).images["indexed"] == 2
    for key, data in (("a.tar/./x.jpg", jpeg(1)), ("b.tar/./y.jpg", jpeg(3))):
        assert score(root, key, data) == pytest.approx(1.0, abs=2e-3)
        assert original(root, key) == data


def test_what_is_skipped_inside_and_outside_is_counted_by_suffix(tmp_path: Path) -> None:
    members = [(f"{i}.jpg", jpeg(i)) for i in range(2)]
    members += [(f"{i}.heic", jpeg(i)) for i in range(8)] + [("._0.jpg", b"x"), ("notes.txt", b"x")]
    write_files(tmp_path / "src", {"a.tar": appended(*members), "readme.md": b"x"})
    report = run(tmp_path / "src", tmp_path / "root", recipe=PLAIN, max_reject_rate=0.0)
    assert (report.exit_code, report.images["seen"], report.images["rejected"]) == (0, 2, 0)
    told = index_json(report)
    assert (told["skipped"], told["skipped_by"]) == (10, {".heic": 8, "system": 1, ".md": 1})
    assert "10 skipped (.heic 8, .md 1, system 1)" in "\n".join(index_lines(report, dry_run=False))
    assert rejects_of(tmp_path / "root") == []


def test_a_run_says_when_most_metadata_is_null(tmp_path: Path) -> None:
    members = [(f"{i}.jpg", jpeg(i)) for i in range(4)] + [("0.json", json.dumps({"a": 1, "b": 2}).encode())]
    members += [(f"{i}.json", b'{"b": 2}') for i in range(1, 4)]
    write_files(tmp_path / "src", {"a.tar": appended(*members)})
    declared = replace(PLAIN, metadata="a:int64,b:int64,c:int64")
    lines = index_lines(run(tmp_path / "src", tmp_path / "root", recipe=declared), dry_run=False)
    notes = [line for line in lines if line.startswith("note: metadata")]
    assert len(notes) == 2
    assert "metadata c is null for every image" in notes[0]
    assert "metadata a (3) is null for most of the 4 images" in notes[1]


class Counting:
    """A distant store of one process, which counts the bytes that are read. See pipeline.core.retry.RemoteStore."""

    def __init__(self, objects: MemoryStore) -> None:
        self.objects, self.url, self.read_bytes = objects, "memory://counted", 0

    def page(self, prefix: str, after: str) -> tuple[list[Entry], str]:
        assert not after
        return list(self.objects.list(prefix)), ""

    def stat(self, name: str) -> Entry:
        return self.objects.stat(name)

    def read(self, name: str) -> bytes:
        self.read_bytes += self.stat(name).size
        return self.objects.read(name)

    def read_range(self, name: str, start: int, end: int, etag: str) -> bytes:
        assert self.stat(name).etag == etag
        self.read_bytes += end - start
        return self.objects.read(name)[start:end]


@pytest.fixture
def counting() -> Iterator[Counting]:
    remote = Counting(MemoryStore("inner"))
    register("counted", RetryingStore(remote))  # type: ignore[arg-type]
    yield remote
    register("counted", None)


def bulky(count: int) -> dict[str, bytes]:
    return {name: data + bytes(1 << 20) for name, data in images(count).items()}


def test_a_picture_out_of_a_distant_archive_costs_its_own_bytes(tmp_path: Path, counting: Counting) -> None:
    files = bulky(20)
    counting.objects.write("a.tar", tar_bytes(files))
    run("memory://counted/a.tar", tmp_path / "root", recipe=PLAIN)
    counting.read_bytes = 0
    assert original(tmp_path / "root", "a.tar/0019.jpg") == files["0019.jpg"]
    assert counting.read_bytes == len(files["0019.jpg"])
    with SearchIndex.open(str(tmp_path / "root")) as index:
        row = index.row("a.tar/0007.jpg")
        assert row is not None
        counting.read_bytes = 0
        pictures = Pictures(index.snapshot, index.row)
        assert pictures.of(row.key, row.uri).data
        assert counting.read_bytes == len(files["0007.jpg"])


def test_an_archive_that_was_written_anew_is_searched_by_name_and_the_truth_is_told(
    tmp_path: Path, counting: Counting
) -> None:
    files = bulky(5)
    counting.objects.write("a.tar", tar_bytes(files))
    root = tmp_path / "root"
    run("memory://counted/a.tar", root, recipe=PLAIN)
    counting.objects.write("a.tar", tar_bytes(dict(reversed(files.items()))))
    assert original(root, "a.tar/0001.jpg") == files["0001.jpg"]
    counting.objects.write("a.tar", tar_bytes({**files, "0001.jpg": jpeg(9)}))
    with pytest.raises(UserError, match="has changed"):
        original(root, "a.tar/0001.jpg")
    counting.objects.write("a.tar", tar_bytes({"x.jpg": jpeg(9)}))
    with pytest.raises(UserError, match="no longer there"):
        original(root, "a.tar/0001.jpg")


def test_metadata_may_go_by_the_names_of_the_columns_of_offsets(tmp_path: Path) -> None:
    side = b'{"container_offset": 7}'
    write_files(tmp_path / "src", {"a.tar": appended(("x.jpg", jpeg(1)), ("x.json", side))})
    run(tmp_path / "src", tmp_path / "root", recipe=replace(PLAIN, metadata="container_offset:int64"))
    with SearchIndex.open(str(tmp_path / "root")) as index:
        row = index.row("a.tar/x.jpg")
    assert row is not None
    assert (row.metadata, row.span) == ({"container_offset": 7}, None)
    assert original(tmp_path / "root", "a.tar/x.jpg") == jpeg(1)


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_compressed_archive_is_read_from_a_distant_store(tmp_path: Path, counting: Counting, codec: str) -> None:
    files = images(4)
    counting.objects.write("a.tar", pa.compress(tar_bytes(files), codec, asbytes=True))
    root = tmp_path / "root"
    assert run("memory://counted/a.tar", root, recipe=PLAIN).images["indexed"] == 4
    assert original(root, "a.tar/0003.jpg") == files["0003.jpg"]
