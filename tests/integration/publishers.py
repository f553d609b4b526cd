"""A process that commits again and again: `python -m tests.integration.publishers ROOT WRITER COMMITS FOLDER [unsafe]`.

All start together, by a signal in FOLDER. Every commit appends one descriptor file of its own to the head; `unsafe`
commits through a store that only looks before it writes, as naive publishers do.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from pipeline.core.errors import ExistsError
from pipeline.core.local import LocalStore
from pipeline.core.storage import open_store
from pipeline.core.types import Artifact, DescriptorFile
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import load_lists
from pipeline.publish.snapshot import Snapshot
from pipeline.stages.commit import Proposal, transact
from tests.life import toy_kinds


class UnsafeStore(LocalStore):
    """Looks whether a name is taken, and then writes."""

    def put_if_absent(self, name: str, data: bytes) -> None:
        if self.exists(name):
            raise ExistsError(f"{name}: exists already")
        time.sleep(0.02)
        self.write(name, data)


def appended(writer: str, number: int) -> DescriptorFile:
    """The record of a descriptor file that is never read."""
    artifact = Artifact(uri=f"descriptors/r/{writer}{number}.parquet", sha256="0" * 64, bytes=1)
    counts = {"rows": 0, "indexed": 0, "rejected": 0, "duplicates": 0, "dim": 16}
    return DescriptorFile(shard_id=f"{writer}-{number}", writer=writer, artifact=artifact, dtype="float16", **counts)


def publish(root: str, writer: str, commits: int, *, unsafe: bool = False) -> None:
    """Commit so many times."""
    catalog = Catalog(UnsafeStore(root) if unsafe else open_store(root))
    for number in range(commits):
        record = manifests.descriptor_table([appended(writer, number)])

        def derive(head: Snapshot | None, record: object = record) -> Proposal:
            assert head is not None
            lists = load_lists(catalog, head)
            more = replace(lists, descriptors=manifests.with_rows(lists.descriptors, record))
            return Proposal(lists=more, recipe=head.recipe, source=head.source, summary=head.summary)

        transact(catalog, catalog.head(), derive, writer=f"{writer}-{number}")


def at_the_signal(writer: str, folder: Path) -> None:
    """Say that this process is ready, and wait until all are."""
    (folder / f"ready-{writer}").touch()
    while not (folder / "go").exists():
        time.sleep(0.001)


if __name__ == "__main__":
    at_the_signal(sys.argv[2], Path(sys.argv[4]))
    with toy_kinds():
        publish(sys.argv[1], sys.argv[2], int(sys.argv[3]), unsafe="unsafe" in sys.argv[5:])
