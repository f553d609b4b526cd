"""I12: what the first release published is read by this one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.core.errors import SightlineError
from pipeline.core.local import LocalStore
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import load_lists
from pipeline.publish.packing import Packing
from pipeline.publish.plan import entries_of, make_plan

FIRST = Path(__file__).parents[1] / "golden" / "root-1"


def test_i12_the_first_format_is_read_as_it_was_written() -> None:
    catalog = Catalog(LocalStore(str(FIRST)))
    head = catalog.require_head()
    lists = load_lists(catalog, head)
    assert (head.version, head.operation, head.deletions, head.fitness) == (2, "index", None, ())
    assert head.summary.images == 7
    assert manifests.total(lists.descriptors, "rejected") == 1
    assert {shard.kind for shard in manifests.index_shards(lists.indexes)} == {"flat", "ivfpq", "lsh"}
    assert [len(rows) for rows in manifests.tombstones(lists.tombstones).values()] == [1]
    listing = [entry for batch in lists.listing.batches() for entry, _ in entries_of(batch)]
    again = make_plan(listing, lists.listing, source=head.source, packing=Packing())
    assert (again.count("add"), again.count("drop"), again.count("keep")) == (0, 0, 8)


def test_i12_a_root_of_a_newer_format_is_refused_plainly(tmp_path: Path) -> None:
    shutil.copytree(FIRST, tmp_path / "root")
    (tmp_path / "root" / "format.json").write_text('{"format":2}')
    with pytest.raises(SightlineError, match="newer than this release"):
        Catalog(LocalStore(str(tmp_path / "root"))).head()
