"""Two operations carried out step by step, in any order of their phases: read base, stage, commit, after."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pipeline.core.errors import SightlineError
from pipeline.core.storage import Store
from tests.faulty import WRITES, Watched

TIMEOUT = 30.0


class Transaction:
    """An operation in a thread of its own that pauses at the border of each phase until it is let on.

    An operation that waits for another one (a run for a sweep) is blocked: it goes on by itself when it can.
    """

    def __init__(self, operation: Callable[[], Any]) -> None:
        self._operation = operation
        self._condition = threading.Condition()
        self._state = "new"
        self._phase = 1
        self._looks = 0
        self.result: Any = None
        self.error: SightlineError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def wrap(self, store: Store) -> Watched:
        """The store as this operation must see it."""
        return Watched(store, self._hook)

    def advance(self) -> None:
        """Let the operation run to the end of its phase, to its end, or to where it is blocked."""
        with self._condition:
            if self._state == "new":
                self._state = "running"
                self._thread.start()
            elif self._state == "paused":
                self._state = "running"
                self._condition.notify_all()
            while True:
                ended = self._condition.wait_for(lambda: self._state in ("paused", "done", "blocked"), TIMEOUT)
                assert ended, "an operation hangs"
                if self._state != "blocked" or not self._condition.wait_for(lambda: self._state != "blocked", 0.02):
                    return

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._state == "done"

    def _run(self) -> None:
        try:
            self.result = self._operation()
        except SightlineError as error:
            self.error = error
        finally:
            with self._condition:
                self._state = "done"
                self._condition.notify_all()

    def _hook(self, kind: str, name: str, carry_out: Callable[..., Any]) -> Any:
        if threading.current_thread() is not self._thread:
            return carry_out()
        self._look_out(kind, name)
        commits = (kind == "put_if_absent" and name.startswith("snapshots/")) or (kind, name[:6]) == ("local", "indexe")
        sweeps = kind == "delete" and not name.startswith("leases/")
        stages = kind in WRITES and not name.startswith("leases/")
        reads = kind == "read" and name.startswith("manifests/") and self._reader
        if self._phase == 1 and (stages or reads or commits):
            self._pause(2)
        if self._phase == 2 and (commits or sweeps):
            self._pause(3)
            result = carry_out()
            self._pause(4)
            return result
        return carry_out()

    @property
    def _reader(self) -> bool:
        return getattr(self._operation, "reads_only", False)

    def _look_out(self, kind: str, name: str) -> None:
        """Three looks at the leases in a row: the operation is waiting."""
        self._looks = (
            self._looks + 1 if (kind, name) == ("list", "leases") else 0 if name[:6] != "leases" else self._looks
        )
        if self._looks >= 3 and self._state == "running":
            with self._condition:
                self._state = "blocked"
                self._condition.notify_all()
        elif self._looks == 0 and self._state == "blocked":
            with self._condition:
                self._state = "running"
                self._condition.notify_all()

    def _pause(self, phase: int) -> None:
        with self._condition:
            self._phase = phase
            self._state = "paused"
            self._condition.notify_all()
            assert self._condition.wait_for(lambda: self._state == "running", TIMEOUT), "nobody lets it on"


def carry_out(order: str, transactions: dict[str, Transaction]) -> None:
    """Advance transactions in the order of the letters, then both to their ends."""
    for letter in order:
        transactions[letter].advance()
    for _ in range(10_000):
        if all(transaction.done for transaction in transactions.values()):
            return
        for transaction in transactions.values():
            transaction.advance()
    raise AssertionError("the operations block each other")
