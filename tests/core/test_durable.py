from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.core import durable
from pipeline.core.errors import PlaceError
from pipeline.core.local import LocalStore

REFUSALS = [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK]


def refusing(number: int) -> durable.Take:
    def take(_: Path, __: Path) -> None:
        raise OSError(number, os.strerror(number))

    return take


@pytest.mark.parametrize("number", REFUSALS)
def test_without_hard_links_one_racer_wins_and_nothing_is_partial(tmp_path: Path, number: int) -> None:
    for turn in range(10):
        path = tmp_path / f"{turn}.json"
        wins: list[int] = []
        barrier = threading.Barrier(4)

        def race(me: int, path: Path = path, wins: list[int] = wins, barrier: threading.Barrier = barrier) -> None:
            temporary = tmp_path / f"{path.name}-{me}"
            durable.write_durably(temporary, io.BytesIO(bytes([me]) * 5000))
            barrier.wait()
            try:
                durable.create(temporary, path, link=refusing(number))
            except FileExistsError:
                return
            wins.append(me)

        threads = [threading.Thread(target=race, args=(me,)) for me in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(wins) == 1
        assert path.read_bytes() == bytes([wins[0]]) * 5000


RACE = """
import errno, os, sys, time
def link(*_): raise OSError(errno.EPERM, "no hard links here")
os.link = link
from pipeline.core.errors import ExistsError
from pipeline.core.local import LocalStore
store, me = LocalStore(sys.argv[1]), sys.argv[2]
while not store.exists("go"): time.sleep(0.001)
won = 0
for turn in range(50):
    try: store.put_if_absent(f"snapshots/{turn:08d}.json", me.encode() * 3000)
    except ExistsError: continue
    won += 1
print(won)
"""


def test_processes_without_hard_links_share_the_names_out(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    racers = [
        subprocess.Popen([sys.executable, "-c", RACE, tmp_path, name], stdout=subprocess.PIPE, text=True)
        for name in "abcd"
    ]
    store.write("go", b"")
    won = [int(racer.communicate()[0]) for racer in racers]
    contents = [store.read(entry.path) for entry in store.list("snapshots")]
    assert (sum(won), len(contents)) == (50, 50)
    assert sorted(won) == sorted(contents.count(name.encode() * 3000) for name in "abcd")
    assert not list(tmp_path.rglob(".sightline-tmp-*"))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_with_no_exclusive_creation_is_refused(tmp_path: Path, number: int) -> None:
    temporary, path = tmp_path / "a", tmp_path / "b"
    temporary.write_bytes(b"x")
    with pytest.raises(PlaceError, match="neither hard links nor an exclusive rename"):
        durable.create(temporary, path, link=refusing(errno.EPERM), rename=refusing(number))
    assert not path.exists()


def test_a_name_that_is_taken_stays_what_it_is_whichever_way_is_tried(tmp_path: Path) -> None:
    path = tmp_path / "b"
    path.write_bytes(b"first")
    for number, link in enumerate((os.link, refusing(errno.EPERM))):
        temporary = tmp_path / f"a{number}"
        temporary.write_bytes(b"second")
        with pytest.raises(FileExistsError):
            durable.create(temporary, path, link=link)
    assert path.read_bytes() == b"first"


def test_a_link_whose_answer_was_lost_is_a_success(tmp_path: Path) -> None:
    def lost(temporary: Path, path: Path) -> None:
        os.link(temporary, path)
        raise FileExistsError(errno.EEXIST, "exists")

    temporary = tmp_path / "a"
    temporary.write_bytes(b"x")
    durable.create(temporary, tmp_path / "b", link=lost)
    assert (tmp_path / "b").read_bytes() == b"x"


def test_other_errors_of_a_link_are_no_reason_to_rename(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(OSError, match="No space"):
        durable.create(tmp_path / "a", tmp_path / "b", link=refusing(errno.ENOSPC))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("operation", ["write", "put_if_absent", "upload"])
def test_bytes_and_then_names_are_on_disk_when_a_write_returns(
    tmp_path: Path, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    final = tmp_path / "root" / "descriptors" / "r" / "x.json"
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), final.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    data = tmp_path / "data"
    data.write_bytes(b"x")
    store = LocalStore(str(tmp_path / "root"))
    if operation == "upload":
        store.upload(data, "descriptors/r/x.json")
    else:
        getattr(store, operation)("descriptors/r/x.json", b"x")
    folders = [str(folder) for folder in (tmp_path, tmp_path / "root", tmp_path / "root" / "descriptors")]
    assert [path for path, _ in synced[:3]] == folders, "each new folder is on disk in the one above it"
    (content, before), (folder, after) = synced[3:]
    assert Path(content).name.startswith(".sightline-tmp-")
    assert not before, "the bytes come first"
    assert (folder, after) == (str(final.parent), True)
