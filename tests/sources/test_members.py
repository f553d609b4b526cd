from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.core.errors import ShardError
from pipeline.core.local import LocalStore
from pipeline.core.types import Entry
from pipeline.sources import _members
from pipeline.sources._members import Members, Table
from tests.builders import tar_bytes, write_files


class Watched(Members):
    """Counts walks; those of `slow.tar` wait until they may go on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(LocalStore(str(folder)))
        self.walks: list[str] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def _walked(self, entry: Entry) -> Table:
        self.walks.append(entry.path)
        if entry.path == "slow.tar":
            self.begun.set()
            assert self.go_on.wait(20)
        return super()._walked(entry)

    @property
    def kept(self) -> list[str]:
        return [path for path, _ in self._archives]


def members(folder: Path, counts: dict[str, int]) -> Watched:
    files = {name: tar_bytes({f"{i}.jpg": b"%d" % i for i in range(count)}) for name, count in counts.items()}
    return Watched(write_files(folder, files))


def read(members: Watched, name: str, member: str = "1.jpg") -> bytes | None:
    return members.read(members._store.stat(name), member)


def test_the_members_that_are_kept_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_members, "_MEMBERS", 10)
    found = members(tmp_path, {"a.tar": 4, "b.tar": 4, "c.tar": 4, "large.tar": 30})
    for name in ("a.tar", "b.tar", "a.tar", "c.tar"):
        assert read(found, name) == b"1"
    assert found.kept == ["a.tar", "c.tar"]
    assert [read(found, "large.tar", f"{i}.jpg") for i in (29, 3, 30)] == [b"29", b"3", None]
    assert found.kept == ["large.tar"]
    assert found.walks == ["a.tar", "b.tar", "c.tar", "large.tar"]
    assert read(found, "a.tar") == b"1"
    assert found.kept == ["a.tar"]


def test_one_archive_that_is_walked_holds_up_no_other_and_is_walked_once(tmp_path: Path) -> None:
    found = members(tmp_path, {"slow.tar": 3, "a.tar": 3})
    with ThreadPoolExecutor(5) as pool:
        slow = [pool.submit(read, found, "slow.tar") for _ in range(4)]
        assert found.begun.wait(20)
        try:
            assert pool.submit(read, found, "a.tar").result(timeout=20) == b"1"
        finally:
            found.go_on.set()
        assert [one.result() for one in slow] == [b"1"] * 4
    assert sorted(found.walks) == ["a.tar", "slow.tar"]


def test_archives_that_cannot_be_walked_are_not_remembered(tmp_path: Path) -> None:
    found = members(tmp_path, {"a.tar": 3})
    write_files(tmp_path, {"bad.tar": b"x" * 2000})
    for _ in range(2):
        with pytest.raises(ShardError):
            read(found, "bad.tar")
    assert found.kept == []
    assert found.walks == ["bad.tar"] * 2
