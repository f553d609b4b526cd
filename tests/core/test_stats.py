"""Statistics of a run: overlapping spans, queue depth, what a summary tells."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.core.stats import REASONS, Stats, told


def test_overlapping_spans_count_once_and_times_of_threads_add_up() -> None:
    stats, barrier = Stats(), threading.Barrier(3)

    def work() -> None:
        barrier.wait()
        with stats.spanned("span"), stats.timed("sum"):
            time.sleep(0.2)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = stats.take()
    assert taken["sum"] == pytest.approx(0.6, abs=0.15)
    assert taken["span"] == pytest.approx(0.2, abs=0.1)
    assert stats.take() == {}


def test_a_summary_tells_shares_and_the_commonest_reasons() -> None:
    sums = {"images": 7.0, "busy_seconds": 10.0, "device_seconds": 8.0, "queued": 30.0, "passes": 10.0, "passed": 15.0}
    reasons = {f"rejected:reason {letter}": float(number) for number, letter in enumerate("abcdefghijklmnopqrstuvw")}
    found = told({**sums, **reasons})
    assert (found["idle_share"], found["queue_depth"], found["images_per_pass"]) == (0.2, 3.0, 1.5)
    assert not {"queued", "passes", "passed"} & set(found)
    kept = [name for name in found if name.startswith("rejected:reason")]
    assert len(kept) == REASONS
    assert found["rejected:other"] == 0.0 + 1.0 + 2.0
    assert sum(found[name] for name in found if name.startswith("rejected:")) == sum(reasons.values())
