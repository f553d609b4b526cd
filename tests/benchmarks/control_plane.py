"""Plan and commit of a million shards of a thousand images each, and of one more on top: seconds and peak memory.

Listings and completion records are simulated; everything else is what a run does. Run it by
`python -m tests.benchmarks.control_plane [SHARDS]`; it prints one JSON object.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.core.local import LocalStore
from pipeline.core.types import Artifact, DescriptorFile, Entry, IndexShard
from pipeline.extract.pooled import Spec as PooledSpec
from pipeline.index.ivfpq import Spec as IvfPqSpec
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import EMPTY, Lists, load_lists
from pipeline.publish.plan import Plan, make_plan
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Snapshot, Summary
from pipeline.sources.tar import Spec as TarSpec
from pipeline.stages.commit import Proposal, transact
from pipeline.stages.fill_index import groups, unheld
from pipeline.stages.find_rows import FindItem, FoundRows
from pipeline.stages.merge import Change, merge

IMAGES, PER_INDEX_SHARD = 1_000, 2_000_000
FAKE = Artifact(uri="artifacts/x/trained.faiss", sha256="0" * 64, bytes=1)


def listing(shards: int) -> Iterator[Entry]:
    """Tar files as an object store lists them."""
    for number in range(shards):
        yield Entry(path=f"collection/part-{number:08d}.tar", size=10**8, etag=f"{number:032x}")


def completed(plan: Plan, recipe: Recipe) -> pa.Table:
    """The completion records of everything that a plan adds."""
    rows = manifests.DescriptorRows()
    recipe_id = recipe.descriptor_id
    counts: dict[str, Any] = {"rows": IMAGES, "indexed": IMAGES, "rejected": 0, "duplicates": 0, "dim": 2048}
    assert plan.packs is not None
    for shard in plan.packs.ids.to_pylist():
        digest = hashlib.sha256(shard.encode()).hexdigest()
        artifact = Artifact.model_construct(
            uri=Catalog.descriptor_name(recipe_id, shard, "0123456789ab"), sha256=digest, bytes=4 * 10**6
        )
        rows.append(
            DescriptorFile.model_construct(
                shard_id=shard, writer="0123456789ab", artifact=artifact, rejects=None, dtype="float16", **counts
            )
        )
    return rows.table()


def filled(lists: Lists, recipe: Recipe) -> pa.Table:
    """Index shards over every descriptor file that none holds yet."""
    made = manifests.index_shards(lists.indexes)
    for places in groups(lists.descriptors, unheld(lists, "ivfpq"), PER_INDEX_SHARD):
        group = lists.descriptors.take(pa.array(places))
        files = tuple(group["id"].to_pylist())
        fingerprint = recipe.index_id(recipe.indexes[0])
        rows = manifests.total(group, "rows")
        made.append(
            IndexShard(kind="ivfpq", fingerprint=fingerprint, trained=FAKE, artifact=FAKE, rows=rows, files=files)
        )
    return manifests.index_table(made)


def nothing(items: Iterable[FindItem], digests: Sequence[str]) -> Iterator[tuple[FindItem, FoundRows]]:
    """No image has gone, and none is deleted, so there is nothing to find."""
    assert not [*items, *digests]
    return iter(())


def publish(catalog: Catalog, head: Snapshot | None, recipe: Recipe, shards: int) -> dict[str, float]:
    """Plan and commit a listing on top of a head; return the seconds of each step."""
    seconds, started = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal started
        seconds[name] = time.perf_counter() - started
        started = time.perf_counter()

    sum(1 for _ in listing(shards))
    lap("listing alone")
    base = load_lists(catalog, head) if head is not None else EMPTY
    lap("load")
    plan = make_plan(listing(shards), base.listing, source="s3://bucket", packing=None)
    lap("plan, with listing")
    files = completed(plan, recipe)
    lap("completion records")
    merged = merge(base, Change(plan=plan, files=files), recipe, nothing)
    lap("merge")
    lists = replace(merged.lists, indexes=filled(merged.lists, recipe))
    lap("group into index shards")
    proposal = Proposal(lists=lists, recipe=recipe, source="s3://bucket", summary=Summary(images=merged.images))
    assert transact(catalog, head, lambda _: proposal, writer="bench") is not None
    lap("commit")
    return seconds


def main(shards: int, root: Path) -> dict[str, object]:
    """Run and return the figures."""
    catalog = Catalog(LocalStore(str(root)))
    extractor = PooledSpec(backbone="resnet50", weights=FAKE, origin="imagenet")
    recipe = Recipe(source=TarSpec(), extractor=extractor, indexes=(IvfPqSpec(),))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    first = publish(catalog, None, recipe, shards)
    second = publish(catalog, catalog.head(), recipe, shards + 1)
    head = catalog.require_head()
    return {
        "shards": shards,
        "images": head.summary.images,
        "first": {**first, "all but listing": sum(first.values()) - 2 * first["listing alone"]},
        "one more": {**second, "all but listing": sum(second.values()) - 2 * second["listing alone"]},
        "manifests MB": sum(entry.size for entry in catalog.store.list("manifests")) / 1e6,
        "GB before": before,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        result = main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, Path(temporary))
        print(json.dumps(result, default=float, indent=1))
