"""I7: a changed, missing or swapped object of any kind is refused before it is used, and named."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from jobs.verify import reachable, verify
from pipeline.core.errors import IntegrityError, SightlineError
from pipeline.search.engine import SearchIndex, SearchOptions
from tests.life import InMemory, in_memory, quiet

RECIPE = """
indexes = [{kind = "flat"}, {kind = "ivfpq", m = 4}, {kind = "lsh", nbits = 64}]
whiten = {method = "pca", dims = 8}
[extractor]
kind = "toy"
"""


@pytest.fixture(scope="module")
def here() -> Iterator[InMemory]:
    """A small snapshot with every kind of object: rejects, whitening, three index kinds, deletions, tombstones."""
    with in_memory(RECIPE) as made:
        for number in range(20):
            made.put(f"{number:02d}.jpg", f"image {number}")
        made.put("bad.jpg", "bad image")
        made.life.index()
        made.life.delete("03.jpg")
        yield made


def named(here: InMemory) -> list[str]:
    """Everything that the head names, itself included."""
    catalog = here.life.catalog
    head = catalog.require_head()
    return [catalog.snapshot_name(head.version), *sorted({artifact.uri for artifact in reachable(catalog, head)})]


def use(here: InMemory) -> None:
    """Read all that serving and the next run read."""
    with SearchIndex.open(here.life.root) as index:
        for kind in index.kinds:
            index.search(np.ones((1, index.dim), np.float32), SearchOptions(k=30, index=kind, rerank=30))
    assert verify(here.life.root, quiet()).faults == ()


def test_every_kind_of_object_is_there(here: InMemory) -> None:
    names = named(here)
    folders = {name.split("/")[0] for name in names}
    assert folders == {"snapshots", "manifests", "descriptors", "artifacts", "indexes"}
    assert len([name for name in names if name.endswith(".rejects.parquet")]) == 1
    assert len([name for name in names if name.endswith(".faiss")]) == 6
    use(here)


def test_one_changed_byte_of_any_object_is_found_and_the_object_named(here: InMemory) -> None:
    state = here.keep()
    generator = np.random.default_rng(0)
    for name in named(here):
        data, time = here.objects.objects[name]
        for position in {0, len(data) - 1, int(generator.integers(len(data)))}:
            changed = bytearray(data)
            changed[position] ^= 1 << int(generator.integers(8))
            here.objects.objects[name] = (bytes(changed), time)
            refused(here, name)
        here.go_back(state)
    use(here)


def refused(here: InMemory, name: str) -> None:
    """Nothing of the object is used: opening fails with its name, or verification says its name."""
    try:
        faults = verify(here.life.root, quiet()).faults
    except SightlineError as error:
        faults = (str(error),)
    assert len(faults) == 1, name
    assert name in faults[0]


def test_missing_and_swapped_objects_are_found(here: InMemory) -> None:
    state = here.keep()
    names = named(here)
    for name in names[1:]:
        del here.objects.objects[name]
        refused(here, name)
        here.go_back(state)
    shards = [name for name in names if name.startswith("indexes/") and name.endswith(".faiss")]
    for one, other in pairwise(shards):
        here.objects.objects[one], here.objects.objects[other] = (
            here.objects.objects[other],
            here.objects.objects[one],
        )
        faults = verify(here.life.root, quiet()).faults
        assert {one, other} == {fault.split(":")[0] for fault in faults}
        here.go_back(state)


def test_i9_an_older_snapshot_under_a_newer_name_is_refused(here: InMemory) -> None:
    state = here.keep()
    here.objects.objects["snapshots/00000002.json"] = here.objects.objects["snapshots/00000001.json"]
    with pytest.raises(IntegrityError, match="says it is snapshot 1"):
        SearchIndex.open(here.life.root)
    here.go_back(state)


def test_i8_objects_that_nobody_names_change_nothing(here: InMemory) -> None:
    state = here.keep()
    here.put("descriptors", "not in the root")
    here.objects.write("descriptors/zzzz/stray-0.parquet", b"stray")
    here.objects.write("snapshots/notes.txt", b"not a snapshot")
    use(here)
    here.go_back(state)
