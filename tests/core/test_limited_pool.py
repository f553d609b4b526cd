from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from pipeline.core.limited_pool import Limit, LimitedPool, busy_threads
from pipeline.core.prefetch import ordered_map

SOON = 0.15
"""Seconds of a limit."""


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """What calls wait for that hang; they are let go when the test ends."""
    event = threading.Event()
    yield event
    event.set()


def limited(threads: int, seconds: float = SOON) -> LimitedPool:
    return LimitedPool(threads, "test", Limit(seconds=lambda *_: seconds, late=lambda item: f"late {item}"))


def test_a_call_that_hangs_has_its_stand_in_and_the_others_their_results_in_order(never: threading.Event) -> None:
    def work(item: int) -> object:
        if item in (1, 4):
            never.wait()
        return item

    with limited(2) as pool:
        found = ordered_map(work, range(8), pool=pool, ahead=8, budget=100, weigh=lambda _: 1)
        assert list(found) == [0, "late 1", 2, 3, "late 4", 5, 6, 7]


def test_threads_that_hang_are_replaced_however_many(never: threading.Event) -> None:
    def work(item: int) -> object:
        if item < 5:
            never.wait()
        return item

    pool = limited(1, 0.05)
    futures = [pool.submit(work, item) for item in range(7)]
    assert [future.result(10) for future in futures] == [*(f"late {item}" for item in range(5)), 5, 6]
    assert sum(thread.name.startswith("test_") for thread in busy_threads()) >= 5, "the abandoned ones are known"


def test_what_a_call_returns_after_its_limit_counts_for_nothing(never: threading.Event) -> None:
    pool = limited(1)

    def work(_: int) -> str:
        never.wait()
        return "too late"

    future = pool.submit(work, 0)
    assert future.result(10) == "late 0"
    never.set()
    deadline = time.monotonic() + 10
    while busy_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert future.result() == "late 0"


def test_the_time_of_a_call_counts_from_its_beginning_not_from_its_submission() -> None:
    def work(item: int) -> int:
        time.sleep(0.2)
        return item

    with limited(1, 0.5) as pool:
        futures = [pool.submit(work, item) for item in range(4)]
        assert [future.result(10) for future in futures] == [0, 1, 2, 3]


def test_errors_of_calls_and_of_stand_ins_are_raised_where_the_result_is_asked_for(never: threading.Event) -> None:
    def late(_: int) -> None:
        raise OSError("gone")

    def work(item: int) -> None:
        if item:
            never.wait()
        raise KeyError(item)

    pool = LimitedPool(2, "test", Limit(seconds=lambda _: SOON, late=late))
    with pytest.raises(KeyError):
        pool.submit(work, 0).result(10)
    with pytest.raises(OSError, match="gone"):
        pool.submit(work, 1).result(10)


def test_a_pool_without_a_limit_waits(never: threading.Event) -> None:
    pool = limited(1, 0)
    future = pool.submit(lambda _: never.wait(10), 0)
    with pytest.raises(TimeoutError):
        future.result(3 * SOON)
    never.set()
    assert future.result(10) is True


def test_a_pool_that_is_shut_down_cancels_what_waits_and_takes_no_more(never: threading.Event) -> None:
    pool, begun = limited(1, 60), threading.Event()

    def work(_: int) -> bool:
        begun.set()
        return never.wait(10)

    running = pool.submit(work, 0)
    waiting = pool.submit(lambda _: 1, 1)
    assert begun.wait(10)
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        waiting.result(10)
    never.set()
    assert running.result(10) is True
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(lambda _: 1, 2)


def test_threads_are_started_as_they_are_needed_and_end_with_their_pool() -> None:
    before = threading.active_count()
    pool = LimitedPool(8, "test", None, initializer=lambda: None)
    for item in range(20):
        assert pool.submit(lambda item: item, item).result(10) == item
    assert threading.active_count() - before <= 2, "an idle thread is taken before another one is started"
    del pool
    gc.collect()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_process_ends_though_a_call_of_it_hangs_and_waits_for_one_that_does_not() -> None:
    program = (
        "import os, time\n"
        "from pipeline.core.limited_pool import LimitedPool\n"
        "pool = LimitedPool(2, 'test')\n"
        "pool.submit(lambda: (time.sleep(0.5), print('ended in order', flush=True)))\n"
        "time.sleep(0.1)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "ended in order"
    hung = program.replace("time.sleep(0.5), print('ended in order', flush=True)", "os.read(os.pipe()[0], 1)")
    assert "os.read" in hung
    subprocess.run([sys.executable, "-c", hung], timeout=60, check=True)


def test_the_end_of_a_pool_does_not_wait_for_what_was_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.core.limited_pool.EXIT_SECONDS", 600.0)
    go_on = threading.Event()
    pool = LimitedPool(1, "test")
    pool.submit(go_on.wait, 10)
    waiting = [pool.submit(print) for _ in range(3)]
    assert all(future.cancel() for future in waiting)
    threading.Timer(0.2, go_on.set).start()
    pool.shutdown()
    assert not busy_threads()
