"""A collection's life: every operation as users have it, on stores that can be stopped, and the invariants."""

from __future__ import annotations

import hashlib
import io
import os
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import pipeline.extract
from jobs.compact import CompactOptions, compact
from jobs.delete import EditOptions, delete, restore
from jobs.expire import ExpireOptions, expire
from jobs.index import IndexOptions, IndexReport, run_index
from jobs.progress import Reporter
from jobs.recipe import RecipeOptions
from jobs.rollback import RollbackOptions, TagOptions, rollback, tag
from jobs.verify import verify
from pipeline.core import memory
from pipeline.core.memory import MemoryStore
from pipeline.core.storage import Store, open_store
from pipeline.publish import manifests, marks
from pipeline.publish.catalog import Catalog
from pipeline.publish.leases import LeaseTimes
from pipeline.publish.lists import load_lists
from pipeline.publish.packing import Packing
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.stages.deletions import rule_of
from pipeline.stages.describe import ExtractOptions
from pipeline.stages.expire import DAY, Retention
from pipeline.stages.kinds import source_spec
from pipeline.table import DescriptorReader

T = TypeVar("T")
THOROUGH = bool(os.environ.get("SIGHTLINE_THOROUGH"))
"""Whether tests that enumerate go through all of their cases, as they do before a change is accepted, or a few."""
KINDS = Path(__file__).parent / "kinds"
RECIPE = """
indexes = [{kind = "flat"}, {kind = "ivfpq", m = 4}]
[extractor]
kind = "toy"
"""


@contextmanager
def toy_kinds() -> Iterator[None]:
    """Make the kinds under tests/kinds known while the block runs."""
    pipeline.extract.__path__.append(str(KINDS))
    try:
        yield
    finally:
        pipeline.extract.__path__.remove(str(KINDS))


def quiet() -> Reporter:
    """A reporter that nobody hears."""
    return Reporter(io.StringIO())


@dataclass
class Life:
    """One collection. source and root are locations; clock moves by hand."""

    source: str
    root: str
    recipe: str
    times: LeaseTimes = field(default_factory=lambda: LeaseTimes(beat=1000.0, silent=900.0, watch=0.0, poll=0.001))
    kind: str = "folder"
    files: int = 3

    @property
    def catalog(self) -> Catalog:
        return Catalog(open_store(self.root))

    def index(self, **more: Any) -> IndexReport:
        options = IndexOptions(
            allow_empty=True,
            source=self.source,
            root=self.root,
            recipe=RecipeOptions(recipe=self.recipe, source_kind=self.kind),
            packing=Packing(files=self.files),
            lease=self.times,
            # One storage operation after the other, so that they can be counted.
            extract=ExtractOptions(overlap=False),
            **more,
        )
        return run_index(options, quiet())

    def delete(self, *keys: str, copies: bool = False) -> dict[str, Any]:
        return delete(EditOptions(root=self.root, keys=keys, missing_ok=True, copies=copies, lease=self.times))

    def restore(self, *keys: str) -> dict[str, Any]:
        return restore(EditOptions(root=self.root, keys=keys, missing_ok=True, lease=self.times))

    def compact(self, rows: int = 100) -> dict[str, Any]:
        return compact(CompactOptions(root=self.root, rows_per_index_shard=rows, lease=self.times), quiet())

    def expire(self, *, keep: float = 0.0, grace: float = 0.0, dry_run: bool = False) -> dict[str, Any]:
        retention = Retention(keep_seconds=keep * DAY, grace_seconds=grace * DAY)
        options = ExpireOptions(root=self.root, retention=retention, lease=self.times, dry_run=dry_run)
        return expire(options, quiet())

    def rollback(self, version: int) -> dict[str, Any]:
        return rollback(RollbackOptions(root=self.root, version=version, lease=self.times))

    def tag(self, name: str, version: int | None = None) -> dict[str, Any]:
        return tag(TagOptions(root=self.root, name=name, version=version, lease=self.times))

    # What there is -----------------------------------------------------------------------------------------------

    def live(self, version: int | None = None) -> dict[str, str]:
        """Key -> sha256 of the image, of everything live in a snapshot; fails when a key is there twice."""
        catalog = self.catalog
        snapshot = catalog.require_head() if version is None else catalog.load(version)
        lists = load_lists(catalog, snapshot)
        dead = manifests.tombstones(lists.tombstones)
        found: dict[str, str] = {}
        for file in manifests.descriptor_files(lists.descriptors):
            reader = DescriptorReader(io.BytesIO(catalog.read(file.artifact)), file.artifact.uri)
            buried = set(dead.get(file.id, np.zeros(0)).tolist())
            for row, image in enumerate(reader.images()):
                if row not in buried:
                    assert image.key not in found, f"I5: {image.key} is live twice"
                    found[image.key] = image.sha256
        return found

    def found(self, kind: str) -> list[str]:
        """Every key that a search finds, whatever its rank."""
        with SearchIndex.open(self.root) as index:
            query = np.ones((1, max(1, index.dim)), np.float32)
            hits = index.search(query, SearchOptions(k=10_000, index=kind, rerank=0))[0] if index.images else []
        return sorted(hit.key for hit in hits)

    def check(self, *, thorough: bool = True) -> None:
        """The invariants that always hold, whatever has happened; thorough: older snapshots too, and searches."""
        catalog, store = self.catalog, open_store(self.root)
        versions = catalog.versions()
        if not versions:
            return
        assert versions == list(range(1, versions[-1] + 1)), "I9: versions without gaps"
        gone = marks.expired(store)
        assert versions[-1] not in gone, "I8: the head is never given up"
        for version in versions if thorough else versions[-1:]:
            if version not in gone:
                assert verify(self.root, quiet(), version).faults == (), f"I1, I2, I7: snapshot {version}"
        head = catalog.require_head()
        live, summary = self.live(), head.summary
        assert summary.images == len(live), "I11: images are counted"
        assert summary.seen == summary.images + summary.rejected + summary.duplicates, "I11: every image has a fate"
        rule = rule_of(load_lists(catalog, head).deletions, source_spec(head.recipe).key_is_row)
        assert not rule.by_key & set(live), "I6: no deleted key is live"
        if source_spec(head.recipe).packs:
            assert not [key for key, sha in live.items() if rule.deletes(key, sha)], "I6: no deleted content is live"
        if thorough:
            for spec in head.recipe.indexes:
                assert self.found(spec.kind) == sorted(live), f"I15: {spec.kind} finds exactly what is live"


class Clock:
    """Seconds that pass by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@dataclass
class Collection:
    """A life with the stores of its source and its root, states to keep and to go back to, and time that passes.

    name: what its root is opened by where it is opened as another store. every: of the cases that are enumerated in
    memory, each n-th is enough here when tests are to be thorough; a few are when they are not.
    """

    life: Life
    images: Any
    objects: Any
    name: str
    every: int = 1

    def put(self, key: str, content: str) -> None:
        self.images.write(key, content.encode())

    def keep(self) -> Any:
        """What there is now."""
        raise NotImplementedError

    def go_back(self, state: Any) -> None:
        """Let everything be as it was kept."""
        raise NotImplementedError

    def later(self, seconds: float) -> None:
        """Let the objects of the root be older by so much, or by as much as leases take to be suspected."""
        raise NotImplementedError

    @contextmanager
    def through(self, wrap: Callable[[Store], Any]) -> Iterator[Any]:
        """Let the root be opened as another store while the block runs."""
        other, root = wrap(self.objects), self.life.root
        memory.register(f"{self.name}-root", other)
        self.life.root = f"memory://{self.name}-root"
        try:
            yield other
        finally:
            self.life.root = root
            memory.register(f"{self.name}-root", self.objects if self.every == 1 else None)

    def some(self, cases: Sequence[T], every: int) -> Sequence[T]:
        """All cases in memory when tests are to be thorough, else every n-th; elsewhere fewer."""
        if self.every == 1:
            return some(cases, every)
        return cases[:: self.every] if THOROUGH else sampled(cases, 2)


@dataclass(kw_only=True)
class InMemory(Collection):
    """A life whose stores are in memory, with a clock to turn by hand."""

    images: MemoryStore
    objects: MemoryStore
    clock: Clock

    def keep(self) -> tuple[dict[str, Any], dict[str, Any], float]:
        return dict(self.images.objects), dict(self.objects.objects), self.clock.now

    def go_back(self, state: tuple[dict[str, Any], dict[str, Any], float]) -> None:
        for store, objects in zip((self.images, self.objects), state[:2], strict=True):
            store.objects.clear()
            store.objects.update(objects)
        self.clock.now = state[2]

    def later(self, seconds: float) -> None:
        self.clock.now += seconds


@contextmanager
def in_memory(recipe: str = RECIPE) -> Iterator[InMemory]:
    """A new, empty collection."""
    name, clock = uuid.uuid4().hex[:8], Clock()
    stores = [MemoryStore(f"{name}-{part}", clock) for part in ("src", "root", "recipe")]
    for store in stores:
        memory.register(store.url.removeprefix("memory://"), store)
    stores[2].write("toy.toml", recipe.encode())
    life = Life(source=stores[0].url, root=stores[1].url, recipe=f"{stores[2].url}/toy.toml")
    try:
        with toy_kinds():
            yield InMemory(life=life, images=stores[0], objects=stores[1], clock=clock, name=name)
    finally:
        for store in stores:
            memory.register(store.url.removeprefix("memory://"), None)


def some(cases: Sequence[T], every: int) -> Sequence[T]:
    """All cases when tests are to be thorough, else every n-th."""
    return cases if THOROUGH else cases[::every]


def sampled(cases: Sequence[T], count: int) -> Sequence[T]:
    """All cases when tests are to be thorough, else so many, drawn by SIGHTLINE_SEED, in their order."""
    if THOROUGH or len(cases) <= count:
        return cases
    dice = random.Random(int(os.environ.get("SIGHTLINE_SEED", "0")))
    return [cases[place] for place in sorted(dice.sample(range(len(cases)), count))]


def digests(contents: dict[str, str]) -> dict[str, str]:
    """Key -> sha256, of a model's key -> content."""
    return {key: hashlib.sha256(text.encode()).hexdigest() for key, text in contents.items()}
