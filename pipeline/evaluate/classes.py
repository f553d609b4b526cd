"""Ground truth from folders: the images of one folder are one class, and relevant to each other. Pure arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

OWN_FOLDER = -1


@dataclass(frozen=True, kw_only=True)
class Classes:
    """level: which folder of a key is its class, 1 the first, -1 the last. sizes: class -> how many images it has."""

    level: int
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, keys: Iterable[str], level: int = OWN_FOLDER) -> Classes:
        """Count the classes of a collection."""
        counts = Counter(class_of(key, level) for key in keys)
        return cls(level=level, sizes={name: size for name, size in counts.items() if name})

    def size_of(self, key: str) -> int:
        """Return how many images the image's class has, itself included; 0 where it is in none."""
        return self.sizes.get(class_of(key, self.level), 0)


def class_of(key: str, level: int = OWN_FOLDER) -> str:
    """Return a folder's name in a key ("shard.tar/apple/1.jpg" -> "apple"), "" where the key has no such folder.

    The name alone counts, so a class may be spread over several shards.
    """
    folders = key.split("/")[:-1]
    place = level - 1 if level > 0 else len(folders) + level
    return folders[place] if 0 <= place < len(folders) else ""
