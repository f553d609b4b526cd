"""An HDF5 file of global descriptors as hloc's `extract_features` writes it, for its `pairs_from_retrieval`.

https://github.com/cvg/Hierarchical-Localization: one group per image, named as the image, with the dataset
`global_descriptor`; a "/" in a name nests groups. Sizes of images, which hloc does not read back, are not written.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from pipeline.core.extras import library
from pipeline.export import NAMES, count, named_rows, write_names
from pipeline.export.paths import escapes, path_of
from pipeline.search.engine import SearchIndex

FEATURES, DATASET = "global-feats-sightline.h5", "global_descriptor"
FORMATS = ("v110", "v110")
"""The file format of HDF5 1.10, which every hloc reads; the newest that a library writes need not be."""
ESCAPES = escapes(r"(?<=/global)_(?=descriptor(?![^/]))")
"""Of the key a/global_descriptor, too: the dataset of the image a has that name."""


def write(index: SearchIndex, folder: Path, kind: str) -> list[str]:  # noqa: ARG001 - part of the protocol
    """Write the HDF5 file, vectors in the precision they are stored in, and names.parquet: the name of every key."""
    h5py = library("h5py", "hloc", "export --form hloc")
    count(index)
    dtype = np.float16 if index.snapshot.recipe.dtype == "float16" else np.float32
    with h5py.File(folder / FEATURES, "w", libver=FORMATS) as file:
        for _, named, vectors in named_rows(index):
            for image, vector in zip(named, vectors.astype(dtype), strict=True):
                file.create_dataset(f"{path_of(image.key, ESCAPES)}/{DATASET}", data=vector)
    write_names(index, folder / NAMES, partial(path_of, pattern=ESCAPES))
    return [FEATURES, NAMES]
