"""`sightline verify`: whether every byte that a snapshot names is as recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs._main import run_module
from jobs.progress import Reporter
from pipeline.core import staging
from pipeline.core.errors import IntegrityError
from pipeline.core.storage import open_store
from pipeline.core.types import Artifact
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import load_lists
from pipeline.publish.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class Verified:
    """Result of `verify`: how much was read, and every object that is not what it should be."""

    snapshot: int
    objects: int
    bytes: int
    faults: tuple[str, ...]


def verify(root: str, reporter: Reporter, version: int | None = None) -> Verified:
    """Read everything that a snapshot names and compare sizes and digests."""
    catalog = Catalog(open_store(root))
    snapshot = catalog.require_head() if version is None else catalog.load_kept(version)
    return check(catalog, snapshot, reporter)[0]


def check(catalog: Catalog, snapshot: Snapshot, reporter: Reporter) -> tuple[Verified, frozenset[str]]:
    """Read everything that a snapshot names; return also the names of the objects that are not as recorded."""
    objects = total = 0
    faults: list[str] = []
    broken: set[str] = set()
    with reporter.phase("verify", None, "objects") as phase:
        for artifact in reachable(catalog, snapshot):
            objects, total = objects + 1, total + artifact.bytes
            phase.advance()
            try:
                with staging.folder() as folder:
                    catalog.fetch(artifact, Path(folder))
            except IntegrityError as error:
                faults.append(str(error))
                broken.add(artifact.uri)
    verified = Verified(snapshot=snapshot.version, objects=objects, bytes=total, faults=tuple(faults))
    return verified, frozenset(broken)


def reachable(catalog: Catalog, snapshot: Snapshot) -> Iterator[Artifact]:
    """Yield every object that a snapshot names, each once; IntegrityError when a manifest itself is damaged."""
    lists = load_lists(catalog, snapshot)
    yield from (snapshot.listing, snapshot.descriptors, snapshot.indexes, snapshot.tombstones, *snapshot.artifacts)
    yield from manifests.artifact_column(lists.descriptors)
    yield from manifests.artifact_column(lists.descriptors, "rejects")
    yield from manifests.artifact_column(lists.indexes)
    yield from {a.sha256: a for a in manifests.artifact_column(lists.indexes, "trained")}.values()


if __name__ == "__main__":
    run_module("verify")
