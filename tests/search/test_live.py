"""Following snapshots: who began with one ends with it, and what is in use is not swept away."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import pytest

from jobs.expire import ExpireOptions, expire
from jobs.progress import Reporter
from pipeline.core.errors import SightlineError, UserError
from pipeline.core.local import LocalStore
from pipeline.publish.catalog import Catalog
from pipeline.publish.leases import read_leases
from pipeline.publish.snapshot import Snapshot
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
        assert old.closed
        assert not new.closed
    assert new.closed


def test_snapshots_are_followed_by_themselves(root: Path) -> None:
    with Live(str(root), Opened, LiveOptions(every=0.02)) as live:
        publish(root.parent, 5)
        deadline = time.monotonic() + 10
        while live.version != 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)


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
        deadline = time.monotonic() + 10
        while live.failures < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with live.use() as opened:
            assert opened.version == 1


def swept(root: Path) -> dict[str, object]:
    options = ExpireOptions(root=str(root), retention=Retention(keep_last=1, keep_seconds=0, grace_seconds=-1))
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
