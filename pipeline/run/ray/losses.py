"""Lost workers: how many in a row on each node, and which nodes are used no more.

A worker is lost when its process dies, is killed for its memory, cannot unpickle what it is sent, or shows an error
that every later item would repeat. One loss says little. A node that loses worker after worker without finishing
anything is sick (a card, a driver, no memory), and is left out; when no node is left the run ends.
"""

from __future__ import annotations

import logging
from collections import Counter

from ray.exceptions import RayError, RayTaskError

from pipeline.core.errors import SightlineError
from pipeline.run.base import MAX_ATTEMPTS, describe

OPENINGS_IN_A_ROW = 2
"""The same for workers that cannot open their task there: no item is to blame for it."""
IN_A_ROW = 8
"""Workers that a node may lose one after the other before it is left out: more than two items that kill whoever takes
them, and little beside a node's work."""
log = logging.getLogger("sightline")


class Losses:
    """The losses of one run."""

    def __init__(self) -> None:
        self._in_a_row: Counter[str] = Counter()
        self._openings: Counter[str] = Counter()
        self.excluded: set[str] = set()

    def finished(self, node: str) -> None:
        """Note that a node has finished an item."""
        self._in_a_row.pop(node, None)

    def opened(self, node: str) -> None:
        """Note that a worker has opened its task on a node."""
        self._openings.pop(node, None)

    def lost(self, node: str, reason: str, alive: set[str], *, opening: bool = False) -> None:
        """Note a loss. node: "" where no worker has been placed yet. Raises SightlineError when no node is left.

        alive: the nodes that workers of the task can run on. opening: it could not open its task.
        """
        self._in_a_row[node] += 1
        self._openings[node] += opening
        others = alive - self.excluded - {node}
        sick = self._in_a_row[node] >= IN_A_ROW or self._openings[node] >= OPENINGS_IN_A_ROW
        if node and others and sick:
            count = self._in_a_row.pop(node)
            log.warning("node %s lost %d workers in a row (%s): it is not used any more", node[:12], count, reason)
            self.excluded.add(node)
            return
        if self._in_a_row[node] < IN_A_ROW and self._openings[node] < MAX_ATTEMPTS:
            return
        raise SightlineError(
            f"{self._in_a_row[node]} workers were lost in a row, the last one by: {reason}; nothing is published, "
            "mend the cause and run the same command again, finished shards are not redone"
        )

    @property
    def selector(self) -> dict[str, str]:
        """The label selector of new workers, by Ray's own label of a node."""
        return {"ray.io/node-id": f"!in({','.join(sorted(self.excluded))})"} if self.excluded else {}


def reason_of(error: RayError) -> str:
    """Return why a worker was lost, in one line; Ray's errors of a call quote whole traces."""
    if isinstance(error, RayTaskError):
        cause = getattr(error, "cause", None)
        if isinstance(cause, BaseException):
            return describe(cause)[:300]
        return str(error).strip().splitlines()[-1][:300]
    return describe(error)[:300]
