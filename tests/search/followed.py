"""What tests of following share: a stand-in for an opened snapshot, a ROOT that grows, and waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pipeline.core.local import LocalStore
from pipeline.publish.catalog import Catalog
from pipeline.publish.leases import read_leases
from pipeline.publish.snapshot import Snapshot
from pipeline.search.live import LiveOptions
from tests.builders import images, run, write_files

NEVER = LiveOptions(every=0)


class Opened:
    """A stand-in for an opened snapshot that knows whether it was closed."""

    def __init__(self, catalog: Catalog, snapshot: Snapshot) -> None:
        self.version, self.closed = snapshot.version, False

    def close(self) -> None:
        assert not self.closed, "closed once"
        self.closed = True


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def publish(folder: Path, count: int) -> None:
    write_files(folder / "src", images(count))
    run(folder / "src", folder / "root")


def leased(root: Path) -> list[tuple[int, ...]]:
    return [lease.versions for lease, _ in read_leases(LocalStore(str(root)))]
