"""Reads and decodes that do not come back: unread after a limit, never a final reject, and the process ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.index import IndexReport
from pipeline.core.errors import SightlineError
from pipeline.core.memory import MemoryStore, register
from pipeline.core.storage import Store, open_store
from pipeline.core.types import Image, Reject, Shard
from pipeline.sources._files import NamedFiles, read_entries
from pipeline.sources._hung import MOST_HUNG
from pipeline.stages.describe import ExtractOptions
from tests.builders import run
from tests.faulty import Watched
from tests.integration.test_unread import COUNT, KINDS, PACKED, QUICKEST, put
from tests.unwell import Unwell

REPOSITORY = Path(__file__).parents[2]
SOON = ExtractOptions(image_seconds=0.3)


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """What reads wait for that hang; they are let go when the test ends."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def place(never: threading.Event) -> Iterator[Callable[[str], Unwell]]:
    def opened(kind: str) -> Unwell:
        store = Unwell(MemoryStore("hung"))
        put(store.inner, kind)
        register("hung", store)
        return store

    yield opened
    register("hung", None)


def hanging(never: threading.Event) -> tuple[Callable[[str], Exception], int]:
    def hang(name: str) -> Exception:
        never.wait()
        return OSError(5, name)

    return hang, 1


def index(kind: str, root: Path, extract: ExtractOptions = SOON, **more: object) -> IndexReport:
    name = "src/list.txt" if kind == "filelist" else "src"
    return run(f"memory://hung/{name}", root, recipe=QUICKEST, extract=extract, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_read_in_time_stays_out_and_the_next_run_indexes_it(
    place: Callable[[str], Unwell], never: threading.Event, tmp_path: Path, kind: str
) -> None:
    store = place(kind)
    store.fails[f"src/{'3.jpg' if kind in PACKED else f'2.{kind}'}"] = hanging(never)
    report = index(kind, tmp_path)
    lost = 1 if kind in PACKED else 2
    assert (report.exit_code, report.images["indexed"], report.images["rejected"]) == (4, COUNT - lost, 0)
    assert [reason.reason.partition(":")[0] for reason in report.unread] == ["not read within its time limit"]
    store.fails.clear()
    well = index(kind, tmp_path)
    assert (well.exit_code, well.images["indexed"], well.images["rejected"]) == (0, COUNT, 0)


def test_a_place_of_which_nothing_is_read_in_time_ends_the_run_in_one_line(
    place: Callable[[str], Unwell], never: threading.Event, tmp_path: Path
) -> None:
    store = place("folder")
    store.fails.update({f"src/{number}.jpg": hanging(never) for number in range(COUNT)})
    with pytest.raises(
        SightlineError, match=r"reads in a row failed \(not read within its time limit.*--max-read-errors"
    ):
        index("folder", tmp_path, files=1, max_read_errors=3)


@pytest.fixture
def slow() -> Iterator[None]:
    """A folder each of whose files takes half a second to be read."""

    def hook(kind: str, name: str, carry_out: Callable[[], Any]) -> Any:
        time.sleep(0.5 if kind == "read" else 0.0)
        return carry_out()

    store = MemoryStore("hung")
    put(store, "folder")
    register("hung", Watched(store, hook))
    yield
    register("hung", None)


def test_no_limit_is_no_limit_and_what_is_slow_is_tried_again(slow: None, tmp_path: Path) -> None:
    with pytest.raises(SightlineError, match=r"could not be read: 6 x not read within its time limit"):
        index("folder", tmp_path)
    report = index("folder", tmp_path, ExtractOptions(image_seconds=0.0, shard_seconds=0.0))
    assert (report.exit_code, report.images["indexed"]) == (0, COUNT)


def test_a_shard_that_takes_too_long_has_failed_and_the_others_are_published(tmp_path: Path) -> None:
    def hook(kind: str, name: str, carry_out: Callable[[], Any]) -> Any:
        if kind == "read" and name in ("0.jpg", "1.jpg"):
            time.sleep(1.2)
        return carry_out()

    store = MemoryStore("hung")
    put(store, "folder")
    register("hung", Watched(store, hook))
    try:
        options = ExtractOptions(shard_seconds=1.0, overlap=False)
        report = index("folder", tmp_path, options, files=2, max_failed_rate=1.0)
        assert (report.exit_code, report.images["rejected"], report.unread) == (4, 0, ())
        assert 0 < report.images["indexed"] < COUNT
        assert {line.partition(": ")[2] for line in report.set_aside.values()} == {
            "TimeoutError: took longer than 1 s (--shard-timeout)"
        }
        well = index("folder", tmp_path, ExtractOptions(shard_seconds=60.0), files=2)
        assert (well.exit_code, well.images["indexed"]) == (0, COUNT)
    finally:
        register("hung", None)


def entries(store: Store) -> Shard:
    found = tuple(store.list())
    return Shard(id="s", uri="", bytes=0, etag="", entries=found)


def test_after_some_files_in_a_row_that_hang_the_rest_is_not_tried(never: threading.Event) -> None:
    inner = MemoryStore("many")
    for number in range(3 * MOST_HUNG):
        inner.write(f"{number:03d}.jpg", b"x")
    store = Unwell(inner, {f"{number:03d}.jpg": hanging(never) for number in range(1, 3 * MOST_HUNG)})
    items = list(read_entries(store, entries(inner), 0.1))
    assert [item.key for item in items] == [entry.path for entry in inner.list()]
    assert isinstance(items[0], Image)
    reasons = [item.reason for item in items if isinstance(item, Reject)]
    late = [reason for reason in reasons if reason == "not read within its time limit"]
    assert MOST_HUNG <= len(late) < 2 * MOST_HUNG
    assert set(reasons) - set(late) == {"not tried, as the reads before it failed"}


def test_a_listed_file_whose_state_does_not_come_is_neither_there_nor_missing(never: threading.Event) -> None:
    inner = MemoryStore("list")
    for name in "abc":
        inner.write(name, b"x")
    store = Unwell(inner)
    store.stats["b"] = hanging(never)[0]
    source = NamedFiles(store, ["a", "b", "c"], lambda _: True)
    source.image_seconds = 0.2
    assert [entry.path for entry in source.listing()] == ["a", "c"]
    assert source.unreadable == ["b"]


PROGRAM = """
import os, sys, threading
from pipeline.core.memory import MemoryStore, register
from jobs import cli
from tests.faulty import Watched
from tests.integration.test_unread import put

HUNG, KIND = sys.argv[1:3]

def hook(kind, name, carry_out):
    if kind in ("read", "open") and name == HUNG:
        os.read(os.pipe()[0], 1)
    return carry_out()

store = MemoryStore("hung")
put(store, KIND)
register("hung", Watched(store, hook))
sys.argv[1:] = sys.argv[3:]
cli.main()
"""
"""`sightline` over a source of which some reads block in a call of the operating system, for ever."""


def sightline(hung: str, kind: str, root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["index", "memory://hung/src", str(root), "--recipe", "hsv-histogram", "--indexes", "flat", "--json"]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, hung, kind, *command, *options],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        check=False,
    )


def test_a_command_over_a_place_that_hangs_ends_with_what_could_be_read(tmp_path: Path) -> None:
    done = sightline("2.tar", "tar", tmp_path, "--image-timeout", "0.5")
    assert done.returncode == 4, done.stderr
    assert json.loads(done.stdout)["images"]["indexed"] == COUNT - 2
    assert "not read within its time limit" in done.stderr


def test_a_shard_that_cannot_be_ended_in_this_process_ends_the_run_with_one_line(tmp_path: Path) -> None:
    done = sightline("2.jpg", "folder", tmp_path, "--image-timeout", "0", "--shard-timeout", "1")
    assert done.returncode == 1, done.stderr
    ends = r"took longer than 1\.\d s \(--shard-timeout\) and does not end; run the same command again"
    assert re.search(ends, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "leases").rglob("*.json")) == [], "the lease was released"


def test_a_pipe_in_a_folder_is_no_file_and_one_that_a_file_became_is_never_opened(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "a.jpg").write_bytes(b"x")
    listed = entries(open_store(str(source)))
    os.mkfifo(source / "b.jpg")
    assert [entry.path for entry in open_store(str(source)).list()] == ["a.jpg"]
    (source / "a.jpg").unlink()
    os.mkfifo(source / "a.jpg")
    (item,) = read_entries(open_store(str(source)), listed, 60.0)
    assert isinstance(item, Reject)
    assert (item.status, item.reason) == ("unread", "not there any more, though it was listed")
