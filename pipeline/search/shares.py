"""Index shards shared out among workers, for indexes beyond one machine's memory: each worker opens a share of them.

Nothing here starts a worker: a `Crew` of pipeline/run does. Whatever the shares, results are those of all shards opened
in one process, down to the bits of the scores and the order of ties: each worker ranks the best of its share, and the
best of those are the best of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.core import staging
from pipeline.core.errors import UserError
from pipeline.core.resources import PROCESS_BYTES, Resources
from pipeline.core.storage import open_store
from pipeline.index import IndexSpec
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import load_lists
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Snapshot
from pipeline.search.merge import Candidates, ranked
from pipeline.search.parts import LocalParts, PartQuery, dealt


@dataclass(frozen=True, kw_only=True)
class Question:
    """What each worker is asked: a query of one index kind."""

    kind: str
    query: PartQuery

    @property
    def nbytes(self) -> int:
        """Its size, but for what is small."""
        hidden = self.query.hidden or {}
        return self.query.queries.nbytes + sum(rows.nbytes for rows in hidden.values())


class Crew(Protocol):
    """What SharedParts asks of the workers, one per share: pipeline.run.base.Crew. Thread-safe."""

    def ask(self, item: Question) -> Sequence[list[Candidates]]:
        """Return what each worker found, of all of them; an error when one has no answer."""
        ...

    def close(self) -> None:
        """Let the workers go."""
        ...


@dataclass(frozen=True, kw_only=True)
class ShareTask:
    """Task of a worker: open share `number` of `of` of the index shards of some kinds of a snapshot.

    memory: bytes that the worker takes, see `share_tasks`.
    """

    root: str
    version: int
    number: int
    of: int
    kinds: tuple[str, ...]
    memory: int = 0

    @property
    def resources(self) -> Resources:
        """Memory alone: it mostly waits."""
        return Resources(memory=self.memory)

    def open(self, threads: int) -> Share:  # noqa: ARG002 - a long-lived worker's process is set to them
        """Load the share's index shards; UserError when the snapshot has expired."""
        return Share(self)


class Share:
    """An opened share: from a Question to the best candidates of each of its queries, ranked. Thread-safe."""

    def __init__(self, task: ShareTask) -> None:
        catalog = Catalog(open_store(task.root))
        snapshot = catalog.load_kept(task.version)
        lists, share = load_lists(catalog, snapshot), (task.number, task.of)
        self._folder = staging.folder("share-")
        self._parts = LocalParts(catalog, snapshot, lists, Path(self._folder.name), share)
        self._specs = {spec.kind: spec for spec in specs(snapshot.recipe, task.kinds)}
        try:
            for spec in self._specs.values():
                self._parts.load(spec)
        except BaseException:
            self.close()
            raise

    def __call__(self, asked: Question) -> list[Candidates]:
        """Search the share; UserError for a kind that it was not opened for."""
        if asked.kind not in self._specs:
            known = ", ".join(self._specs)
            raise UserError(f"--index {asked.kind}", f"is not open in the workers, which hold {known}", "open it there")
        return self._parts.search(self._specs[asked.kind], asked.query)

    def close(self) -> None:
        """Remove downloaded copies."""
        self._parts.close()
        self._folder.cleanup()


class SharedParts:
    """See pipeline.search.parts.Parts: every worker is asked, and what they found is merged."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def search(self, spec: IndexSpec, query: PartQuery) -> list[Candidates]:
        """Return the best of each query over all shares, ranked; an UnavailableError rather than a part of them."""
        answers = self._crew.ask(Question(kind=spec.kind, query=query))
        return [ranked(found).first(query.depth) for found in zip(*answers, strict=True)]

    def close(self) -> None:
        """Let the workers go."""
        self._crew.close()


def specs(recipe: Recipe, kinds: Sequence[str]) -> list[IndexSpec]:
    """Return the settings of some of a recipe's index kinds."""
    return [spec for spec in recipe.indexes if isinstance(spec, IndexSpec) and spec.kind in kinds]


def share_tasks(root: str, catalog: Catalog, snapshot: Snapshot, kinds: Sequence[str], most: int) -> list[ShareTask]:
    """Return one task for each of `most` shares, or of fewer where no kind has so many index shards.

    A task's memory is the bytes of its index files, which are read whole or mapped, and of a process.
    """
    listed = snapshot.indexes
    shards = manifests.index_shards(manifests.from_parquet(catalog.read(listed), manifests.INDEXES, listed.uri))
    ids = [snapshot.recipe.index_id(spec) for spec in specs(snapshot.recipe, kinds)]
    count = max(1, min(most, max((len(dealt(shards, one, (0, 1))) for one in ids), default=0)))

    def size(number: int) -> int:
        return sum(shard.artifact.bytes for one in ids for shard in dealt(shards, one, (number, count)))

    return [
        ShareTask(
            root=root,
            version=snapshot.version,
            number=number,
            of=count,
            kinds=tuple(kinds),
            memory=PROCESS_BYTES + size(number),
        )
        for number in range(count)
    ]
