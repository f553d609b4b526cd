"""An opened snapshot, its index shards in this process or shared out among workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from jobs.runners import ANSWER_SECONDS, RunnerOptions, open_crew
from pipeline.core.names import parse_location
from pipeline.core.storage import open_store
from pipeline.publish.catalog import Catalog
from pipeline.search.engine import SearchIndex
from pipeline.search.shares import SharedParts, share_tasks


def open_search(
    root: str,
    version: int | None = None,
    runner: RunnerOptions | None = None,
    *,
    kinds: Sequence[str] = (),
    seconds: float = ANSWER_SECONDS,
) -> SearchIndex:
    """Open the latest snapshot of ROOT, or a given one; closing it ends what was started for it.

    With the Ray runner each worker holds a share of the index shards of some kinds, "" being the preferred one and none
    meaning all, and has so many seconds to answer a query. UserError for kinds that the snapshot does not have.
    """
    catalog = Catalog(open_store(root))
    snapshot = catalog.require_head() if version is None else catalog.load_kept(version)
    local = SearchIndex(catalog, snapshot)
    if runner is None or runner.kind == "inline":
        return local
    with local:
        wanted = tuple(dict.fromkeys(local.spec(kind).kind for kind in kinds)) or tuple(local.kinds)
    # Workers need not have been started in the folder that a relative path is relative to.
    there = catalog.store.url if parse_location(root).scheme == "file" else root
    parts = SharedParts(open_crew(partial(share_tasks, there, catalog, snapshot, wanted), runner, seconds))
    try:
        return SearchIndex(catalog, snapshot, parts)
    except BaseException:
        parts.close()
        raise
