"""What a server's lease keeps, and what becomes of it when it is taken away."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pytest

from jobs.expire import ExpireOptions, expire
from jobs.progress import Reporter
from pipeline.core.errors import StoreError, UserError
from pipeline.core.local import LocalStore
from pipeline.publish.catalog import Catalog
from pipeline.publish.leases import SWEEP, Held, Lease, LeaseTimes, hold, live_leases, read_leases
from pipeline.publish.marks import expired, mark_expired
from pipeline.search.engine import SearchIndex
from pipeline.search.live import Live, LiveOptions
from pipeline.stages.expire import Retention
from tests.search.followed import NEVER, Opened, leased, publish, until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path, 4)
    return tmp_path / "root"


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


def changed(root: Path, count: int) -> None:
    """Publish a snapshot that no longer names a file of the one before."""
    (root.parent / "src" / "0001.jpg").unlink()
    publish(root.parent, count)


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
