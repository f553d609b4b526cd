"""Which kind of source a location is, when nobody says. Looks at names only, and at a bounded number of them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.local import LocalStore
from pipeline.core.names import parse_location, public_url
from pipeline.core.places import beneath, outside
from pipeline.core.storage import Store, Walk, open_store, split_location, walk
from pipeline.core.types import Entry
from pipeline.sources import IMAGE_SUFFIXES, in_hidden_folder, is_system_file
from pipeline.sources._skipped import Skipped
from pipeline.sources._tar_stream import COMPRESSED

CONTAINERS = ("tar", "parquet", "arrow", "npy")
"""Kinds whose files hold many images each; a file's suffix is the kind's name, but for compressed archives."""
SUFFIXES = ".tar, .parquet, .arrow or .npy"
LISTS = (".txt", ".lst", ".list")
RECORDS = "sensors/records_camera.txt"
NAMES = "names.parquet"
"""The table beside an exported matrix (pipeline/export/npy.py): it names the matrix's rows, and holds no images."""
LOOK = 10_000


def detect(location: str, apart: str = "") -> str:
    """Return the kind's name; UserError when there is nothing, or when it could be more than one.

    apart: a ROOT, whose own files do not count, unless all of the location lies there.
    """
    apart = apart if not apart or beneath(location, apart) is None else ""
    shown = public_url(location)
    parsed = parse_location(location)
    scheme, path = parsed.scheme, parsed.path
    if scheme == "file" and not Path(path).exists():
        raise UserError(shown, "does not exist", "check the path")
    endings = {**{kind: (f".{kind}",) for kind in CONTAINERS}, "filelist": LISTS}
    endings["tar"] += COMPRESSED
    for kind, suffixes in endings.items():
        if path.lower().endswith(suffixes) and not (scheme == "file" and Path(path).is_dir()):
            store, name = split_location(location)
            if store.exists(name):
                return kind
    if scheme == "file" and Path(path).is_file():
        raise UserError(
            shown, "is a file of no known kind of source", "give a folder, .tar, .parquet, .arrow, .npy or .txt"
        )
    store = open_store(location)
    if store.exists(RECORDS):
        return "kapture"
    counts, compressed = _counted(islice(outside(walk(store, Walk()), location, apart), LOOK))
    found = [kind for kind, count in counts.items() if count]
    if len(found) == 1:
        return found[0]
    if compressed and not found:
        # Beside images or other containers a compressed archive is most likely a backup, and does not decide.
        return "tar"
    if found:
        what = ", ".join(f"{counts[kind]} {'image' if kind == 'folder' else kind} files" for kind in found)
        raise UserError(shown, f"holds {what}", "say which with --source-kind")
    what = "is empty" if isinstance(store, LocalStore) else "holds nothing, or does not exist"
    others = _others(store, location, apart)
    none = f"holds no images, {SUFFIXES} files, only {others}" if others else what
    raise UserError(shown, none, "check the path, or use --match and --source-kind")


def _others(store: Store, location: str, apart: str) -> str:
    """Return in words what a place without sources holds: its commonest suffixes; "" where it is empty."""
    noted, passed = Walk(), Skipped()
    for entry in islice(outside(walk(store, noted), location, apart), LOOK):
        passed.add(entry.path)
    counts = [f"{kind} {count}" for kind, count in passed.counts.most_common(3)]
    counts += [f"links that lead nowhere, pipes or devices {noted.special}"] if noted.special else []
    return ", ".join(counts)


def _counted(entries: Iterable[Entry]) -> tuple[dict[str, int], bool]:
    """Return how many files of each kind there are, and whether there are compressed archives."""
    compressed, beside = False, 0
    counts = dict.fromkeys((*CONTAINERS, "folder"), 0)
    for entry in entries:
        if is_system_file(entry.path) or in_hidden_folder(entry.path):
            continue
        name = entry.path.lower()
        kind = next((kind for kind in CONTAINERS if name.endswith(f".{kind}")), "")
        compressed = compressed or name.endswith(COMPRESSED)
        beside += name.rpartition("/")[2] == NAMES
        counts[kind or "folder"] += bool(kind) or name.endswith(IMAGE_SUFFIXES)
    if counts["npy"] and counts["parquet"] == beside:
        counts["parquet"] = 0
    return counts, compressed
