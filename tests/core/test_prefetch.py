from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pipeline.core import prefetch


def mapped(function: Any, items: Any, *, workers: int, budget: int, weigh: Any) -> Iterator[Any]:
    with ThreadPoolExecutor(workers) as pool:
        yield from prefetch.ordered_map(function, items, pool=pool, ahead=4 * workers, budget=budget, weigh=weigh)


def test_results_come_in_order_though_work_does_not_end_in_order() -> None:
    def slow(n: int) -> int:
        time.sleep(0.01 * (n % 3))
        return n * n

    found = mapped(slow, range(20), workers=4, budget=100, weigh=lambda _: 1)
    assert list(found) == [n * n for n in range(20)]


def test_no_more_than_the_budget_is_in_flight() -> None:
    lock, running, peak = threading.Lock(), [0], [0]

    def work(n: int) -> int:
        with lock:
            running[0] += 1
            peak[0] = max(peak[0], running[0])
        time.sleep(0.005)
        with lock:
            running[0] -= 1
        return n

    assert list(mapped(work, range(30), workers=8, budget=20, weigh=lambda _: 10)) == list(range(30))
    assert peak[0] <= 2


def test_an_item_heavier_than_the_budget_goes_alone() -> None:
    assert list(mapped(str, [1, 2, 3], workers=2, budget=1, weigh=lambda _: 50)) == ["1", "2", "3"]


def test_errors_reach_the_consumer_in_their_place() -> None:
    found = mapped(lambda n: 1 // n, [1, 1, 0, 1], workers=2, budget=10, weigh=lambda _: 1)
    assert [next(found), next(found)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_items_are_pulled_only_as_needed() -> None:
    pulled: list[int] = []

    def items() -> Iterator[int]:
        for n in range(1000):
            pulled.append(n)
            yield n

    found = mapped(str, items(), workers=2, budget=4, weigh=lambda _: 1)
    next(found)
    assert len(pulled) < 20


def test_what_is_done_weighs_what_is_held_of_it() -> None:
    """Work of weight 10 with a budget of 25: the first ends when all others have begun, one after the other."""
    begun, others = [0], threading.Event()
    lock = threading.Lock()

    def work(n: int) -> int:
        if n == 0:
            assert others.wait(5), "what was done still took its full weight"
        else:
            with lock:
                begun[0] += 1
                if begun[0] == 5:
                    others.set()
        return n

    with ThreadPoolExecutor(4) as pool:
        found = prefetch.ordered_map(
            work, range(6), pool=pool, ahead=16, budget=25, weigh=lambda _: 10, held=lambda _: 1
        )
        assert list(found) == list(range(6))
