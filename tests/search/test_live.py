"""Following snapshots: who began with one ends with it, and what is in use is not swept away."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline.core.errors import SightlineError, UserError
from pipeline.publish.catalog import Catalog
from pipeline.publish.snapshot import Snapshot
from pipeline.search import live as module
from pipeline.search.engine import SearchIndex
from pipeline.search.live import Live, LiveOptions
from tests.search.followed import NEVER, Opened, leased, publish, until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path, 4)
    return tmp_path / "root"


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
