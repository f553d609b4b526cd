"""Side members of a tar archive wherever they lie: x.json, x.txt and x.cls of an image x.jpg, before it or after it.

Nothing waits: an image is handed on at once with a view of what is known of it, which grows until the archive ends.
Values of the declared columns are kept, by the name of the side member; the images' own bytes are not. Like the rows of
a shard these are as many as there are images. (_groups.py has the older way, which pairs only what lies side by side.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.core.metadata import Column, Value, cast_value
from pipeline.core.types import Image, Reject
from pipeline.sources._groups import SIDES, Side, field_at, fields_of, text_of

JSON_BYTES = 32 << 20
"""Larger JSON is passed over."""
Values = dict[str, Value]


@dataclass
class _Known:
    """What side members of one name say: JSON, and members of their own, which go before a field of that name."""

    fields: Values = field(default_factory=dict)
    texts: dict[str, Values] = field(default_factory=dict)

    def get(self, column: Column) -> Value:
        values = self.texts.get(column.path, self.fields)
        return values.get(column.name)


class View(Mapping[str, Value]):
    """The metadata of one image, by column: of the first of its names that has a value."""

    __slots__ = ("_name", "_sides")

    def __init__(self, sides: Sides, name: str) -> None:
        self._sides, self._name = sides, name

    def __getitem__(self, name: str) -> Value:
        return self._sides.value(self._name, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sides.columns)

    def __len__(self) -> int:
        return len(self._sides.columns)


class Sides:
    """What is known so far, by the names of side members without their suffixes."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = {column.name: column for column in columns}
        self._known: dict[str, _Known] = {}

    def add(self, name: str, side: Side) -> None:
        """Take in a side member. Of equal names the last counts, as for images."""
        known = self._known.setdefault(name.rpartition(".")[0], _Known())
        if side.suffix == "json":
            known.fields = self._values(fields_of(side), "")
        else:
            text = text_of(side)
            text = text.removeprefix("\ufeff").strip() if text is not None else None
            known.texts[side.suffix] = self._values({side.suffix: text}, side.suffix)

    def _values(self, fields: object, only: str) -> Values:
        columns = [column for column in self.columns.values() if not only or column.path == only]
        found = {column.name: field_at(fields, column.path) for column in columns}
        return {c.name: cast_value(found[c.name], c.kind) for c in columns if found[c.name] is not None}

    def value(self, image: str, name: str) -> Value:
        """Return the value of a column of the image of that name, as far as it is known now."""
        column = self.columns[name]
        known = (self._known[stem].get(column) for stem in stems(image) if stem in self._known)
        return next((value for value in known if value is not None), None)


def stems(name: str) -> list[str]:
    """Return what the side members of an image may be called, but for their suffix; the first that knows counts.

    a/x.left.jpg: a/x.left.jpg.json (after the file), a/x.left.json (after the name), a/x.json (WebDataset's sample);
    and where a sample's own name has dots, a/x.v1.json of a/x.v1.left.jpg.
    """
    folder, slash, file = name.rpartition("/")
    start = 1 if file.startswith(".") else 0
    dots = [place for place in range(start, len(file)) if file[place] == "."]
    return [f"{folder}{slash}{file[:end]}" for end in (len(file), *reversed(dots))]


def side_suffix(name: str) -> str:
    """Return "json", "txt" or "cls" for the name of a side member, and "" for another's."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return suffix.lower() if stem and dot and suffix.lower() in SIDES else ""


def paired(items: Iterable[tuple[str, Image | Reject | Side]], columns: Sequence[Column]) -> Iterator[Image | Reject]:
    """Give images the metadata of their side members; items come with the names of their members. Nothing is held."""
    sides = Sides(columns)
    for name, item in items:
        if isinstance(item, Side):
            sides.add(name, item)
        elif isinstance(item, Image) and columns:
            yield replace(item, metadata=View(sides, name))
        else:
            yield item
