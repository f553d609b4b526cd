"""Errors of reading by class, kind of source and place: no final reject, no removal, exit 4, and later indexed."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.index import IndexReport
from jobs.recipe import RecipeOptions
from pipeline.core.errors import NotFoundError, ReadError, SightlineError, TransientError
from pipeline.core.memory import MemoryStore, register
from pipeline.core.storage import open_store
from pipeline.publish.catalog import Catalog
from tests.builders import jpeg, run, tar_bytes
from tests.unwell import Make, Unwell

QUICKEST = RecipeOptions(recipe="hsv-histogram", indexes=("flat",))
COUNT = 6
"""Images of a source; containers hold two each."""
PLACES = ("first", "middle", "last")


def raised(number: int) -> Make:
    return lambda name: OSError(number, os.strerror(number), name)


ERRORS: dict[str, Make] = {
    **{errno.errorcode[number]: raised(number) for number in
       (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EACCES, errno.EMFILE, errno.ETIMEDOUT)},
    "ReadError": lambda name: ReadError(f"{name}: access denied to this object"),
    "TransientError": lambda name: TransientError(f"{name}: timed out"),
    "MemoryError": lambda _: MemoryError(),
}  # fmt: skip
KINDS = ("folder", "filelist", "tar", "parquet", "arrow", "tar.gz", "tar.zst")
PACKED = ("folder", "filelist")


def parquet_bytes(files: dict[str, bytes]) -> bytes:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    out = io.BytesIO()
    rows = [{"bytes": data, "path": name} for name, data in files.items()]
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), out, row_group_size=1)
    return out.getvalue()


def container(files: dict[str, bytes], kind: str) -> bytes:
    if kind == "parquet":
        return parquet_bytes(files)
    if kind == "arrow":
        out = io.BytesIO()
        table = pa.table({"image": [{"bytes": data, "path": name} for name, data in files.items()]})
        with pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
        return out.getvalue()
    codec = {"tar.gz": "gzip", "tar.zst": "zstd"}.get(kind)
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, codec) if codec else out as file:
        file.write(tar_bytes(files))
    return bytes(out.getvalue().to_pybytes())


def put(store: MemoryStore, kind: str, seed: int = 0) -> None:
    """Write a source of COUNT images; another seed gives other images under the same names."""
    files = {f"{place}.jpg": jpeg(seed + place) for place in range(COUNT)}
    if kind in PACKED:
        for name, data in files.items():
            store.write(f"src/{name}", data)
        if kind == "filelist":
            store.write("src/list.txt", "\n".join(files).encode())
        return
    names = list(files)
    for place in range(0, COUNT, 2):
        part = {name: files[name] for name in names[place : place + 2]}
        store.write(f"src/{place}.{kind}", container(part, kind))


def failing(store: MemoryStore, kind: str, place: str, make: Make) -> dict[str, tuple[Make, int]]:
    """Return what fails: one file, or one container at its beginning, in its middle or at its end."""
    which = {"first": 0, "middle": COUNT // 2 - 1, "last": COUNT - 1}[place]
    if kind in PACKED:
        return {f"src/{which}.jpg": (make, 0)}
    name = f"src/{which - which % 2}.{kind}"
    size = len(store.read(name))
    return {name: (make, {"first": 0, "middle": size // 2, "last": size - 1}[place])}


@pytest.fixture
def place() -> Iterator[Callable[[str], Unwell]]:
    def opened(kind: str) -> Unwell:
        store = Unwell(MemoryStore("unwell"))
        put(store.inner, kind)
        register("unwell", store)
        return store

    yield opened
    register("unwell", None)


def index(kind: str, root: Path, **more: object) -> IndexReport:
    name = "src/list.txt" if kind == "filelist" else "src"
    return run(f"memory://unwell/{name}", root, recipe=QUICKEST, **more)  # type: ignore[arg-type]


CASES = sorted(
    {(error, kind, PLACES[(i + j) % 3]) for i, error in enumerate(ERRORS) for j, kind in enumerate(KINDS)}
    | {("ReadError", kind, where) for kind in KINDS for where in PLACES}
)


@pytest.mark.parametrize(("error", "kind", "where"), CASES)
def test_what_cannot_be_read_stays_out_and_the_next_run_indexes_it(
    place: Callable[[str], Unwell], tmp_path: Path, error: str, kind: str, where: str
) -> None:
    store = place(kind)
    store.fails.update(failing(store.inner, kind, where, ERRORS[error]))
    report = index(kind, tmp_path)
    lost = 1 if kind in PACKED else 2
    assert (report.exit_code, report.images["indexed"], report.images["rejected"]) == (4, COUNT - lost, 0)
    assert sum(reason.count for reason in report.unread) == 1
    assert report.reject_reasons == ()
    again = index(kind, tmp_path)
    assert (again.exit_code, again.published) == (4, False), "nothing new could be read: there is nothing to publish"
    store.fails.clear()
    well = index(kind, tmp_path)
    assert (well.exit_code, well.images["indexed"], well.images["rejected"]) == (0, COUNT, 0)
    assert index(kind, tmp_path).published is False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", ["EIO", "ReadError", "TransientError", "MemoryError"])
def test_the_old_version_of_what_has_changed_stays_while_the_new_one_cannot_be_read(
    place: Callable[[str], Unwell], tmp_path: Path, error: str, kind: str
) -> None:
    store = place(kind)
    before = index(kind, tmp_path)
    put(store.inner, kind, seed=100)
    store.fails.update(failing(store.inner, kind, "middle", ERRORS[error]))
    during = index(kind, tmp_path)
    assert (during.exit_code, during.images["indexed"], during.images["rejected"]) == (4, COUNT, 0)
    store.fails.clear()
    after = index(kind, tmp_path)
    assert (after.exit_code, after.images["indexed"]) == (0, COUNT)
    assert after.plan.count("add") == 1
    assert before.snapshot is not None


@pytest.mark.parametrize("error", sorted({*ERRORS} - {"MemoryError"}))
def test_a_listed_file_whose_state_cannot_be_asked_for_is_neither_missing_nor_removed(
    place: Callable[[str], Unwell], tmp_path: Path, error: str
) -> None:
    store = place("filelist")
    store.stats["src/0.jpg"] = ERRORS[error]
    first = index("filelist", tmp_path)
    assert (first.exit_code, first.images["indexed"], first.images["rejected"]) == (4, COUNT - 1, 0)
    assert first.unreadable == ("0.jpg",)
    store.stats.clear()
    assert index("filelist", tmp_path).images["indexed"] == COUNT
    store.stats["src/3.jpg"] = ERRORS[error]
    later = index("filelist", tmp_path)
    assert (later.exit_code, later.published) == (4, False), "what is known of it stays as it was"
    status = Catalog(open_store(str(tmp_path))).require_head()
    assert status.summary.images == COUNT


def test_a_file_that_a_list_names_and_that_is_not_there_is_a_reject_until_it_comes(
    place: Callable[[str], Unwell], tmp_path: Path
) -> None:
    store = place("filelist")
    data = store.inner.read("src/2.jpg")
    store.inner.delete("src/2.jpg")
    report = index("filelist", tmp_path)
    assert (report.exit_code, report.images["rejected"]) == (0, 1)
    assert [(r.reason, r.example) for r in report.reject_reasons] == [("no such file", "2.jpg")]
    store.inner.write("src/2.jpg", data)
    assert index("filelist", tmp_path).images["indexed"] == COUNT


@pytest.mark.parametrize("how", ["away", "short"])
def test_a_file_that_is_not_as_it_was_listed_is_tried_again(
    place: Callable[[str], Unwell], tmp_path: Path, how: str
) -> None:
    store = place("folder")
    if how == "away":
        # An unmounted folder is there, and empty.
        store.fails["src/1.jpg"] = (lambda name: NotFoundError(f"{name}: no such object"), 0)
        report = index("folder", tmp_path)
        store.fails.clear()
    else:
        inner, whole = store.inner, store.inner.read
        store.read = lambda name: whole(f"src/{name}")[:10]  # type: ignore[method-assign]
        store.below = lambda folder: _Short(inner.below(folder))  # type: ignore[method-assign,assignment,return-value]
        report = index("folder", tmp_path)
        register("unwell", Unwell(inner))
    assert (report.exit_code, report.images["rejected"], report.images["indexed"]) == (4, 0, COUNT - 1)
    assert index("folder", tmp_path).images["indexed"] == COUNT


class _Short(MemoryStore):
    """Gives half of one file."""

    def __init__(self, inner: MemoryStore) -> None:
        self.__dict__.update(inner.__dict__)

    def read(self, name: str) -> bytes:
        data = super().read(name)
        return data[: len(data) // 2] if name == "4.jpg" else data


def test_a_place_that_is_away_ends_the_run_in_one_line(place: Callable[[str], Unwell], tmp_path: Path) -> None:
    store = place("folder")
    store.fails.update({f"src/{n}.jpg": (ERRORS["ENOTCONN"], 0) for n in range(COUNT)})
    with pytest.raises(SightlineError, match=r"memory://unwell/src: 3 reads in a row failed .*--max-read-errors"):
        index("folder", tmp_path, files=1, max_read_errors=3)
    store.fails.clear()
    assert index("folder", tmp_path, files=1, max_read_errors=3).images["indexed"] == COUNT


def test_a_place_that_goes_away_in_mid_run_ends_the_reading_and_what_was_read_is_published(
    place: Callable[[str], Unwell], tmp_path: Path
) -> None:
    store = place("folder")
    store.fails.update({f"src/{n}.jpg": (ERRORS["ENOTCONN"], 0) for n in range(1, COUNT)})
    report = index("folder", tmp_path, files=1, max_read_errors=3)
    assert (report.exit_code, report.images["indexed"], report.images["rejected"]) == (4, 1, 0)
    assert sum(reason.count for reason in report.unread) == COUNT - 1
    store.fails.clear()
    assert index("folder", tmp_path, files=1).images["indexed"] == COUNT


def test_within_a_shard_the_rest_is_not_tried_after_too_many_failures_in_a_row(
    place: Callable[[str], Unwell], tmp_path: Path
) -> None:
    store = place("folder")
    store.fails.update({f"src/{n}.jpg": (ERRORS["EIO"], 0) for n in (1, 2)})
    report = index("folder", tmp_path, files=COUNT, max_read_errors=2)
    assert (report.images["indexed"], report.images["rejected"]) == (1, 0)
    assert {r.reason: r.count for r in report.unread} == {
        "Input/output error": 2,
        "not tried, as the reads before it failed": 3,
    }
    assert index("folder", tmp_path, files=COUNT, max_read_errors=3).images["indexed"] == COUNT - 2


def test_a_whitening_of_what_could_be_read_is_not_recorded_as_that_of_the_whole_sample(
    place: Callable[[str], Unwell], tmp_path: Path
) -> None:
    store, recipe = place("folder"), RecipeOptions(recipe="hsv-histogram", indexes=("flat",), whiten="pca", dims=2)

    def whitened(root: str) -> object:
        report = run("memory://unwell/src", tmp_path / root, recipe=recipe)
        for snapshot in (tmp_path / root / "snapshots").iterdir():
            snapshot.unlink()
        assert report.recipe.whiten is not None
        return report.recipe.whiten.artifact

    store.fails.update(failing(store.inner, "folder", "middle", ERRORS["EIO"]))
    part = whitened("root")
    store.fails.clear()
    assert whitened("root") == whitened("other") != part
