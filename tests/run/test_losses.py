"""Which nodes are left out, by what is noted of their workers. No Ray is started."""

from __future__ import annotations

import logging

import pytest

from pipeline.core.errors import SightlineError
from pipeline.run.ray.losses import IN_A_ROW, Losses

NODES = {"one", "other"}


def test_a_node_that_fails_twice_at_opening_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    losses = Losses()
    losses.lost("one", "no driver", NODES, opening=True)
    assert not losses.excluded
    losses.lost("one", "no driver", NODES, opening=True)
    assert losses.excluded == {"one"}
    assert losses.selector == {"ray.io/node-id": "!in(one)"}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "node one lost 2 workers in a row (no driver): it is not used any more" in caplog.text


def test_a_node_where_a_worker_opened_meanwhile_is_not_left_out() -> None:
    losses = Losses()
    for _ in range(3):
        losses.lost("one", "no driver", NODES, opening=True)
        losses.opened("one")
        losses.finished("one")
    assert not losses.excluded


def test_workers_that_are_lost_at_work_are_more_before_their_node_is_left_out() -> None:
    losses = Losses()
    for _ in range(IN_A_ROW - 1):
        losses.lost("one", "killed", NODES)
    assert not losses.excluded
    losses.lost("one", "killed", NODES)
    assert losses.excluded == {"one"}


@pytest.mark.parametrize(("opening", "count"), [(True, 3), (False, IN_A_ROW)])
def test_when_no_other_node_suits_the_run_ends_with_one_line(opening: bool, count: int) -> None:
    losses = Losses()
    for _ in range(count - 1):
        losses.lost("one", "no driver", {"one"}, opening=opening)
    with pytest.raises(SightlineError, match=f"{count} workers were lost in a row, the last one by: no driver;"):
        losses.lost("one", "no driver", {"one"}, opening=opening)
