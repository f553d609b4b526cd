"""A runner whose workers see the ROOT of the driver: each reads the lease of the run there before it works.

A folder that is not shared has the same path on every node and other objects: what workers write there would be
published, and missing.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from pipeline.core.errors import NotFoundError, ReadError, UserError
from pipeline.core.names import public_url
from pipeline.core.storage import open_store
from pipeline.core.types import Outcome, TimeLimit
from pipeline.publish.leases import Held, Lease
from pipeline.run.base import Resources, Runner, Task, limit_of, name_of

T = TypeVar("T")
R = TypeVar("R")


class OtherRootError(UserError):
    """A worker does not see the ROOT of the driver."""


@dataclass(frozen=True, kw_only=True)
class RootChecked:
    """A task that only workers open that can read a lease in its ROOT. lease: name of the object; writer: whose."""

    task: Task[Any, Any]
    root: str
    lease: str
    writer: str

    @property
    def label(self) -> str:
        """What the task is called."""
        return name_of(self.task)

    @property
    def resources(self) -> Resources:
        """As the task."""
        return self.task.resources

    def limit(self, item: Any) -> TimeLimit:
        """As the task."""
        return limit_of(self.task, item)

    def open(self, threads: int) -> Callable[[Any], Any]:
        """Open the task; OtherRootError when the lease is not there."""
        try:
            seen = Lease.model_validate_json(open_store(self.root).read(self.lease)).writer == self.writer
        except (NotFoundError, ReadError, ValidationError):
            seen = False
        if not seen:
            raise OtherRootError(
                public_url(self.root),
                f"the worker on node {platform.node()} does not see the ROOT of the driver ({self.lease} of this "
                "run is not readable there)",
                "use a folder that all nodes share under the same path, or s3://",
            )
        return self.task.open(threads)


class SameRoot:
    """See pipeline.run.base.Runner: another one, whose tasks are opened where ROOT is that of the driver."""

    def __init__(self, inner: Runner, root: str, held: Held) -> None:
        self._inner, self._root, self._held = inner, root, held
        self.name = inner.name

    def map(self, task: Task[T, R], items: Iterable[T]) -> Iterator[Outcome[T, R]]:
        """As the other runner; an OtherRootError ends the run."""
        lease = self._held.lease
        checked: Task[T, R] = RootChecked(task=task, root=self._root, lease=lease.name, writer=lease.writer)
        try:
            yield from self._inner.map(checked, items)
        except OtherRootError:
            # Where the driver does not see its lease either, that has lapsed.
            self._held.check()
            raise

    def room(self, task: Task[Any, Any]) -> int:
        """As the other runner."""
        return self._inner.room(task)

    def progress(self, phase: str, pending: int, seconds: float) -> None:
        """As the other runner."""
        self._inner.progress(phase, pending, seconds)

    def close(self) -> None:
        """Close the other runner."""
        self._inner.close()
