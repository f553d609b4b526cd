"""Following snapshots: who began with one ends with it, and what is in use is not swept away."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from jobs.expire import ExpireOptions, expire
from jobs.progress import Reporter
from pipeline.core.errors import SightlineError, StoreError, UserError
from pipeline.core.local import LocalStore
from pipeline.publish.catalog import Catalog
from pipeline.publish.leases import SWEEP, Held, Lease, LeaseTimes, hold, live_leases, read_leases
from pipeline.publish.marks import expired, mark_expired
from pipeline.publish.snapshot import Snapshot
from pipeline.search import live as module
from pipeline.search.engine import SearchIndex
from pipeline.search.live import Live, LiveOptions
from pipeline.stages.expire import Retention
from tests.builders import images, run, write_files

NEVER = LiveOptions(every=0)


class Opened:
    """A stand-in for an opened snapshot that knows whether it was closed."""

    def __init__(self, catalog: Catalog, snapshot: Snapshot) -> None:
        self.version, self.closed = snapshot.version, False

    def close(self) -> None:
        assert not self.closed, "closed once"
        self.closed = True


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path, 4)
    return tmp_path / "root"


def publish(folder: Path, count: int) -> None:
    write_files(folder / "src", images(count))
    run(folder / "src", folder / "root")


def test_a_new_snapshot_takes_over_and_the_old_one_ends_with_its_last_user(root: Path) -> None:
    with Live(str(root), Opened, NEVER) as live:
        with live.use() as old:
            publish(root.parent, 6)
            assert live.refresh()
            with live.use() as new:
                assert (old.version, new.version, live.version) == (1, 2, 2)
            assert not old.closed
            assert not live.refresh()
        until(lambda: old.closed)
        assert not new.closed
    assert new.closed


def test_snapshots_are_followed_by_themselves(root: Path) -> None:
    with Live(str(root), Opened, LiveOptions(every=0.02)) as live:
        publish(root.parent, 5)
        until(lambda: live.version == 2)


def test_a_given_version_is_kept(root: Path) -> None:
    publish(root.parent, 6)
    with Live(str(root), Opened, LiveOptions(every=0, version=1)) as live:
        assert not live.refresh()
        assert live.version == 1
    with pytest.raises(UserError, match="no snapshot 7"), Live(str(root), Opened, LiveOptions(version=7)):
        pass


def test_what_cannot_be_opened_leaves_the_old_one_at_work(root: Path) -> None:
    def opener(catalog: Catalog, snapshot: Snapshot) -> Opened:
        if snapshot.version > 1:
            raise SightlineError("cannot be opened")
        return Opened(catalog, snapshot)

    with Live(str(root), opener, LiveOptions(every=0.02)) as live:
        publish(root.parent, 6)
        until(lambda: live.failures >= 2)
        with live.use() as opened:
            assert opened.version == 1


def swept(root: Path, keep_seconds: float = 0) -> dict[str, object]:
    retention = Retention(keep_last=1, keep_seconds=keep_seconds, grace_seconds=-1)
    options = ExpireOptions(root=str(root), retention=retention)
    return expire(options, Reporter(io.StringIO()))


def test_a_sweep_keeps_what_is_served_and_takes_it_afterwards(root: Path) -> None:
    with Live(str(root), SearchIndex, NEVER) as live:
        (root.parent / "src" / "0001.jpg").unlink()
        publish(root.parent, 7)
        publish(root.parent, 9)
        told = swept(root)
        assert told["busy"] == []
        assert told["kept"] == [1, 3]
        with live.use() as index:
            live_rows = index.live()
            assert len(index.stored.vectors(live_rows.file, live_rows.row)) == 4
        assert live.refresh()
        live._pin()  # what the following thread does at its next look
        assert swept(root)["kept"] == [3]
        with live.use() as index:
            assert len(index.live()) == 9
    assert read_leases(LocalStore(str(root))) == []


def test_many_threads_search_while_snapshots_come(root: Path) -> None:
    wrong: list[BaseException] = []
    stop = threading.Event()

    def ask(live: Live[SearchIndex]) -> None:
        while not stop.is_set():
            try:
                with live.use() as index:
                    rows = index.live()
                    assert len(rows) == index.snapshot.summary.images
                    assert len(index.stored.vectors(rows.file, rows.row)) == len(rows)
            except BaseException as error:  # noqa: BLE001 - reported by the test
                wrong.append(error)
                return

    with Live(str(root), SearchIndex, NEVER) as live:
        threads = [threading.Thread(target=ask, args=(live,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for count in (6, 8, 10):
            publish(root.parent, count)
            assert live.refresh()
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong


def leased(root: Path) -> list[tuple[int, ...]]:
    return [lease.versions for lease, _ in read_leases(LocalStore(str(root)))]


def changed(root: Path, count: int) -> None:
    """Publish a snapshot that no longer names a file of the one before."""
    (root.parent / "src" / "0001.jpg").unlink()
    publish(root.parent, count)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("faiss"), ValueError("x")])
def test_following_survives_any_error_and_says_so(
    root: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    broken = True

    def opener(catalog: Catalog, snapshot: Snapshot) -> Opened:
        if snapshot.version > 1 and broken:
            raise error
        return Opened(catalog, snapshot)

    with Live(str(root), opener, LiveOptions(every=0.02)) as live:
        publish(root.parent, 6)
        until(lambda: live.failures >= 2)
        assert live.version == 1
        broken = False
        until(lambda: live.version == 2)
    assert "Traceback" in caplog.text


def test_a_beat_survives_any_error_and_a_lease_taken_while_it_was_written(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = LocalStore(str(root))
    original, failed = LocalStore.list, threading.Event()

    def listing(self: LocalStore, prefix: str = "") -> Any:
        if threading.current_thread().name == "lease" and not failed.is_set():
            failed.set()
            raise FileNotFoundError(prefix)
        return original(self, prefix)

    with hold(store, Lease(writer="w", operation="index"), LeaseTimes(beat=0.02)) as held:
        monkeypatch.setattr(LocalStore, "list", listing)
        assert failed.wait(10)
        beat = held.lease.beat
        until(lambda: held.lease.beat > beat + 1)
    assert "Traceback" in caplog.text
    monkeypatch.setattr(LocalStore, "list", lambda *_: iter(()))
    with pytest.raises(StoreError, match="was taken away"):
        Held(store, Lease(writer="v", operation="index"), LeaseTimes()).put()


def test_a_lease_on_what_was_swept_revives_nothing(root: Path) -> None:
    changed(root, 7)
    assert swept(root)["expired"] == [1]
    changed(root, 9)
    store = LocalStore(str(root))
    with hold(store, Lease(writer="looping", operation="serve", versions=(1,)), LeaseTimes()):
        told = swept(root)
        assert (told["kept"], told["expired"], expired(store)) == ([3], [1, 2], {1, 2})
        with pytest.raises(UserError, match="snapshot 1 has expired"):
            Catalog(store).load_kept(1)


def test_what_a_killed_sweep_only_marked_is_kept_while_it_is_served(root: Path) -> None:
    with Live(str(root), SearchIndex, LiveOptions(every=0, version=1)) as live:
        changed(root, 7)
        store = LocalStore(str(root))
        mark_expired(store, 1)
        with hold(store, Lease(writer="another", operation=SWEEP), LeaseTimes()):
            assert swept(root)["kept"] == [1, 2]
            assert expired(store) == {1}, "another sweep may be at it"
        assert swept(root)["kept"] == [1, 2]
        assert expired(store) == set()
        with live.use() as index:
            rows = index.live()
            assert len(index.stored.vectors(rows.file, rows.row)) == 4


def test_what_is_superseded_between_the_two_looks_of_a_sweep_is_left_to_the_next(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leases(*args: Any, **more: Any) -> list[Lease]:
        monkeypatch.undo()
        found = live_leases(*args, **more)
        (root / "leases").rename(root / "aside")  # the run that commits now has let go when anybody looks
        changed(root, 7)
        (root / "leases").rmdir()
        (root / "aside").rename(root / "leases")
        return found

    monkeypatch.setattr("pipeline.stages.expire.live_leases", leases)
    assert swept(root, keep_seconds=-100)["kept"] == [1, 2], "even if the store's clock jumps"
    assert swept(root, keep_seconds=-100)["kept"] == [2]


@pytest.mark.parametrize(("every", "version"), [(0, None), (0, 1), (0.02, 1)])
def test_a_lease_that_was_taken_away_is_put_back(root: Path, every: float, version: int | None) -> None:
    options = LiveOptions(every=every, version=version, times=LeaseTimes(beat=0.05))
    with Live(str(root), Opened, options) as live:
        (lease,) = (root / "leases").iterdir()
        lease.unlink()
        until(lambda: leased(root) == [(1,)])
        assert live.failures == 0


def test_what_expired_while_the_lease_was_gone_is_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = LiveOptions(every=0, version=1, times=LeaseTimes(beat=0.05))
    with Live(str(root), Opened, options) as live:
        publish(root.parent, 7)
        mark_expired(LocalStore(str(root)), 1)
        (lease,) = (root / "leases").iterdir()
        lease.unlink()
        until(lambda: live.failures == 1)
        assert "snapshot 1 is in use and has expired" in caplog.text


def test_versions_whose_write_failed_are_written_at_the_next_look(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LocalStore.write

    def refuse(self: LocalStore, name: str, data: bytes) -> None:
        raise StoreError("full")

    with Live(str(root), Opened, NEVER) as live:
        monkeypatch.setattr(LocalStore, "write", refuse)
        with pytest.raises(StoreError):
            live._pin(7)
        monkeypatch.setattr(LocalStore, "write", original)
        assert leased(root) == [(1,)]
        live._pin(7)
        assert leased(root) == [(1, 7)]


def test_a_server_starts_during_a_sweep(root: Path) -> None:
    store = LocalStore(str(root))
    started = threading.Event()

    def serve() -> None:
        with Live(str(root), Opened, NEVER):
            started.set()

    with hold(store, Lease(writer="long", operation=SWEEP), LeaseTimes()):
        thread = threading.Thread(target=serve)
        thread.start()
        assert started.wait(10)
    thread.join()


def test_a_given_version_that_a_sweep_has_just_marked_is_waited_for(root: Path) -> None:
    publish(root.parent, 7)
    store = LocalStore(str(root))
    mark_expired(store, 1)
    versions: list[int] = []

    def serve() -> None:
        with Live(str(root), Opened, LiveOptions(every=0, version=1, times=LeaseTimes(poll=0.01))) as live:
            versions.append(live.version)

    with hold(store, Lease(writer="short", operation=SWEEP), LeaseTimes()):
        thread = threading.Thread(target=serve)
        thread.start()
        until(lambda: (1,) in leased(root))
        (root / "expired" / "00000001.json").unlink()
    thread.join()
    assert versions == [1]


class Stubborn(Opened):
    """Cannot be closed."""

    def close(self) -> None:
        super().close()
        raise RuntimeError("will not close")


def test_a_snapshot_that_cannot_be_closed_harms_no_request_and_no_other(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Opened] = []
    closers: list[str] = []

    class Slow(Stubborn):
        def close(self) -> None:
            closers.append(threading.current_thread().name)
            super().close()

    def opener(catalog: Catalog, snapshot: Snapshot) -> Opened:
        made.append(Slow(catalog, snapshot))
        return made[-1]

    with ExitStack() as users, Live(str(root), opener, NEVER) as live:
        with live.use():
            publish(root.parent, 5)
            assert live.refresh()
        until(lambda: made[0].closed)
        assert closers == ["follow"], "not the request that used it last"
        users.enter_context(live.use())  # longer than all this goes on
        publish(root.parent, 6)
        assert live.refresh()
    assert [one.closed for one in made] == [True, True, True]
    assert caplog.text.count("could not be closed") == 3


def test_the_end_waits_for_no_download_and_what_is_opened_too_late_is_closed(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ENDING", 0.05)
    opening, go = threading.Event(), threading.Event()
    made: list[Opened] = []

    def opener(catalog: Catalog, snapshot: Snapshot) -> Opened:
        made.append(Opened(catalog, snapshot))
        if snapshot.version > 1:
            opening.set()
            assert go.wait(10)
        return made[-1]

    with Live(str(root), opener, LiveOptions(every=0.02)):
        publish(root.parent, 5)
        assert opening.wait(10)
    assert [one.closed for one in made] == [True, False]
    go.set()
    until(lambda: made[1].closed)
    assert leased(root) == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
