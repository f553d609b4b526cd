"""Tar shards (WebDataset layout): streamed member by member, never extracted. Member names are labels, never paths.

An archive counts as whole only if every header is sound, the two zero blocks of the end are there, nothing but zeros
follows them, and as many bytes came as the listing promised. Python's tarfile would end quietly in most of these cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, ClassVar

from pydantic import JsonValue

from pipeline.core.errors import NotFoundError, ShardError
from pipeline.core.types import Entry, Image, Reject, Span
from pipeline.sources import CarryingSpec
from pipeline.sources._containers import Containers, ContainerSource
from pipeline.sources._groups import grouped
from pipeline.sources._members import Members, Rules
from pipeline.sources._reading import Reading
from pipeline.sources._sides import paired
from pipeline.sources._tar_stream import COMPRESSED, SUFFIX, compression


class Spec(CarryingSpec):
    """Every .tar beneath a folder, or one .tar; the key is "<tar path>/<member name>".

    Metadata comes from the side members x.json (its fields), x.txt and x.cls (fields of these names) of an image x.jpg.

    rules: how archives are read. By 2, which new recipes start with, names are normalized ("./a//b" is "a/b"), of equal
    names the last counts as it does for tar, hard links have the bytes of what they name, side members count wherever
    they lie, files of the system (AppleDouble and the like) and pictures of formats that are not read are counted as
    skipped, and .tar.gz and the like are listed, too. By 1, for recipes from before, names are as written, the first of
    equal names counts, hard links are rejected, side members count beside their image, and only .tar is listed.
    """

    packs: ClassVar[bool] = False
    initial: ClassVar[dict[str, JsonValue]] = {**CarryingSpec.initial, "rules": 2}

    rules: Rules = 1

    @property
    def last_counts(self) -> bool:
        """By rules 2."""
        return self.rules == 2

    def open(self, location: str) -> TarSource:
        """Open the folder or the archive; a UserError when a local one is not there."""
        suffixes = (SUFFIX, *COMPRESSED) if self.rules == 2 else (SUFFIX,)
        return TarSource(self, Containers(location, suffixes))


class TarSource(ContainerSource[Spec]):
    """See pipeline.sources.Source. Archives may be compressed, whatever their name."""

    def __init__(self, spec: Spec, containers: Containers) -> None:
        super().__init__(spec, containers)
        self._picked = Members(containers.store, spec.rules)

    def items(self, entry: Entry) -> Iterator[Image | Reject]:
        """Stream the members in their order; what comes before a fault has been yielded when ShardError is raised."""
        return self._read(entry, self._spec)

    def _read(self, entry: Entry, spec: Spec) -> Iterator[Image | Reject]:
        def opened() -> BinaryIO:
            return self._containers.store.open(entry.path)

        try:
            raw = opened()
        except NotFoundError:
            raise ShardError("is gone since it was listed") from None
        with raw:
            reading = Reading(spec, spec.rules, entry.path, self._containers.uri(entry), entry.size, opened)
            pair = grouped if spec.rules == 1 else paired
            yield from pair(reading.items(raw), spec.columns)

    def container(self, key: str, uri: str) -> str:
        """Return the path of the archive: the URI ends as the key does, but for a "#" where the archive's name ends."""
        end = uri[-len(key) :]
        place = next((i for i, (one, other) in enumerate(zip(key, end, strict=False)) if one != other), 0)
        return key[:place] if end == f"{key[:place]}#{key[place + 1 :]}" else ""

    def pick_span(self, key: str, uri: str, span: Span) -> bytes | None:
        """Return the bytes that lay at `span` of an image's archive when it was indexed; no others are read."""
        path = self.container(key, uri)
        return self._picked.read_span(path, span) if path else None

    def pick_from(self, entry: Entry, key: str, uri: str) -> bytes | None:  # noqa: ARG002 - the key says it all
        """Return one member, without reading those before it; a compressed archive is read to its end."""
        with self._containers.store.open(entry.path) as file:
            compressed = bool(compression(file))
        if not compressed:
            return self._picked.read(entry, key.removeprefix(f"{entry.path}/"))
        found = None
        for item in self._read(entry, self._spec.model_copy(update={"metadata": {}})):
            if item.key == key and isinstance(item, Image):
                found = item.data
                if not self._spec.last_counts:
                    break
        return found
