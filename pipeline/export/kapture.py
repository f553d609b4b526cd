"""Global features of a kapture dataset: the folder opens with the kapture library, or its features join another's.

https://github.com/naver/kapture, format 1.1: reconstruction/global_features/<type>/ holds global_features.txt and, for
each image of sensors/records_camera.txt, <image name>.gfeat, a vector's raw bytes. Images, cameras and poses are not
written: one camera of unknown model stands for all, and the time of a record is its row.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.core.errors import UserError
from pipeline.export import NAMES, count, named_rows, names, write_names
from pipeline.export.paths import escapes, path_of
from pipeline.search.engine import SearchIndex

SENSORS, RECORDS = "sensors/sensors.txt", "sensors/records_camera.txt"
FEATURES, CONFIG, SUFFIX = "reconstruction/global_features", "global_features.txt", ".gfeat"
HEAD = "# kapture format: 1.1\n"
CAMERA = "sightline"
ESCAPES = escapes(
    r"[,\\]",  # a comma ends a field of a table; kapture takes a backslash for a slash
    r"\.(?=gfeat/)",  # a folder of this name may be the file of another image
    r"(?<=^global_features)\.(?=txt/)",
)
LONGEST_PART, LONGEST = 255, 1024
"""Bytes of a file name, and of the name of an object in S3."""


def write(index: SearchIndex, folder: Path, kind: str) -> Iterator[str]:  # noqa: ARG001 - part of the protocol
    """Write the tables, a file per image, float32 little-endian, and names.parquet: the name of every key.

    UserError for a name that begins or ends with a blank, which kapture's tables drop, or is too long for a file.
    """
    count(index)
    features = f"{FEATURES}/sightline-{index.snapshot.recipe.fingerprint[:12]}"
    for place in ("sensors", features):
        (folder / place).mkdir(parents=True)
    with (folder / RECORDS).open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"{HEAD}# timestamp, device_id, image_path\n")
        for numbers, named in names(index):
            pairs = zip(numbers.tolist(), named, strict=True)
            longest = LONGEST - len(features) - 1
            file.writelines(f"{row}, {CAMERA}, {_checked(image.key, longest)}\n" for row, image in pairs)
    (folder / SENSORS).write_text(
        f"{HEAD}# sensor_id, name, sensor_type, [sensor_params]+\n{CAMERA}, , camera, UNKNOWN_CAMERA, 0, 0\n"
    )
    (folder / features / CONFIG).write_text(
        f"{HEAD}# name, dtype, dsize, metric_type\n{Path(features).name}, float32, {index.dim}, L2\n"
    )
    write_names(index, folder / NAMES, partial(path_of, pattern=ESCAPES))
    yield from (SENSORS, RECORDS, f"{features}/{CONFIG}", NAMES)
    yield from _vectors(index, folder, features)


def _checked(key: str, longest: int) -> str:
    """Return the name of a key."""
    name = path_of(key, ESCAPES)
    if name != name.strip():
        raise UserError(repr(key), "begins or ends with a blank, which kapture drops", "delete it, or index it renamed")
    parts = [len(part) for part in f"{name}{SUFFIX}".encode().split(b"/")]
    if max(parts) > LONGEST_PART or sum(parts) + len(parts) > longest:
        raise UserError(repr(key), "is too long for the name of a file", "delete it, or index it renamed")
    return name


def _vectors(index: SearchIndex, folder: Path, features: str) -> Iterator[str]:
    for _, named, vectors in named_rows(index):
        for image, vector in zip(named, vectors.astype("<f4"), strict=True):
            name = f"{features}/{path_of(image.key, ESCAPES)}{SUFFIX}"
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(np.ascontiguousarray(vector).tobytes())
            yield name
