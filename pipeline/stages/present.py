"""What is to be published is there: new objects that lists name exist in the ROOT of the driver, of the right size."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import IntegrityError, NotFoundError, SightlineError
from pipeline.core.prefetch import ordered_map
from pipeline.core.types import Artifact
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import Lists

SMALL = 64 << 10
"""Bytes: objects up to this size are read and their digests compared, which takes one request as well."""
THREADS = 16


def require_present(catalog: Catalog, lists: Lists, before: Lists) -> None:
    """Check the objects that lists name and earlier ones do not; a SightlineError when any is not as recorded."""
    faults, count = [], 0
    with ThreadPoolExecutor(THREADS, "present") as pool:
        checked = ordered_map(
            lambda artifact: _fault(catalog, artifact),
            _new(lists, before),
            pool=pool,
            ahead=4 * THREADS,
            budget=4 * THREADS,
            weigh=lambda _: 1,
        )
        for fault in checked:
            count += 1
            faults += [fault] if fault else []
    if faults:
        raise SightlineError(
            f"{catalog.shown}: {len(faults)} of {count} new objects are not as they were recorded (e.g. {faults[0]}): "
            "nothing is published; see that all workers write to this ROOT and that nobody deletes in it"
        )


def _new(lists: Lists, before: Lists) -> Iterator[Artifact]:
    for table, old, names in (
        (lists.descriptors, before.descriptors, ("artifact", "rejects")),
        (lists.indexes, before.indexes, ("trained", "artifact")),
    ):
        for name in names:
            known = manifests.among(_uris(table, name), _uris(old, name))
            rest = table.select([name]).filter(pc.invert(known))
            for batch in rest.to_batches(max_chunksize=4096):
                # Index shards of a kind name the same trained index.
                yield from dict.fromkeys(manifests.artifact_column(pa.Table.from_batches([batch]), name))


def _uris(table: pa.Table, column: str) -> pa.ChunkedArray:
    return pc.struct_field(table[column], "uri")


def _fault(catalog: Catalog, artifact: Artifact) -> str:
    """Return what is wrong with an object, "" for nothing."""
    try:
        if artifact.bytes <= SMALL:
            catalog.read(artifact)
            return ""
        size = catalog.store.stat(artifact.uri).size
    except NotFoundError:
        return f"{artifact.uri} is missing"
    except IntegrityError as error:
        return f"{error.name} {error.reason}"
    return "" if size == artifact.bytes else f"{artifact.uri} has {size} bytes, {artifact.bytes} were recorded"
