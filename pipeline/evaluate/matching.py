"""Which image a name in ground truth means: keys name images in full, ground truth often by less. Pure arithmetic.

A key is compared with a name in full, then without its first folders, then without suffixes too, and at last by the
stems alone. The closest likeness counts; where two are equally close the names do not say which is meant.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from pipeline.core.errors import UserError

SUBJECT = "ground truth"
REMEDY = "name images by their keys, as `sightline query` prints them"


def stem(name: str) -> str:
    """Return a name without folders and suffix: what the revisited form calls an image."""
    return PurePosixPath(name).stem


class Names:
    """Names of ground truth, in their order; `what` is where they stand. UserError when one is there twice."""

    def __init__(self, names: Sequence[str], what: str) -> None:
        self.names, self.what = names, what
        self._full = {name: place for place, name in enumerate(names)}
        if len(self._full) < len(names):
            twice = next(name for place, name in enumerate(names) if self._full[name] != place)
            raise UserError(SUBJECT, f"has {twice!r} twice in {what}", "name each image once")
        self._bare: dict[str, list[int]] = defaultdict(list)
        self._stems: dict[str, list[int]] = defaultdict(list)
        for place, name in enumerate(names):
            self._bare[_bare(name)].append(place)
            self._stems[stem(name)].append(place)

    def like(self, key: str) -> tuple[int, list[int]]:
        """Return how far the closest names are from a key, 0 for equal, and their places; none are like it: []."""
        tails = list(_tails(key))
        for tail in tails:
            if tail in self._full:
                return int(tail != key), [self._full[tail]]
        for tail in map(_bare, tails):
            if tail in self._full:
                return 2, [self._full[tail]]
            if tail in self._bare:
                return 3, self._bare[tail]
        return 4, self._stems.get(stem(key), [])

    def match(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the place of the name that each key goes by; keys that no name means are left out.

        Where several keys are like a name the closest is meant, and the others are not. UserError naming both where two
        are equally close, or where a key is as close to two names that nothing else is closer to.
        """
        found = {key: like for key in sorted(keys) if (like := self.like(key))[1]}
        closest: dict[int, tuple[int, str]] = {}
        for key, (distance, places) in found.items():
            for place in places:
                if place not in closest or distance < closest[place][0]:
                    closest[place] = (distance, key)
        matched: dict[str, int] = {}
        for key, (distance, places) in found.items():
            meant = [place for place in places if distance == closest[place][0]]
            if len(meant) > 1:
                raise self._unclear(f"{self.names[meant[0]]!r} and {self.names[meant[1]]!r}", f"both mean {key!r}")
            for place in meant:
                if closest[place][1] != key:
                    other = closest[place][1]
                    raise self._unclear(repr(self.names[place]), f"may mean {other!r} or {key!r}")
                matched[key] = place
        return matched

    def _unclear(self, names: str, why: str) -> UserError:
        return UserError(SUBJECT, f"is ambiguous: {names} in {self.what} {why}", REMEDY)


def missing(names: Names, matched: Mapping[str, int]) -> list[str]:
    """Return the names that no key goes by, in their order."""
    known = set(matched.values())
    return [name for place, name in enumerate(names.names) if place not in known]


def _tails(key: str) -> Iterator[str]:
    """Yield a key, and what is left of it without its first folders."""
    rest: str = key
    while rest:
        yield rest
        rest = rest.partition("/")[2]


def _bare(name: str) -> str:
    """Return a name without its suffix; folders stay."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{stem(file)}"
