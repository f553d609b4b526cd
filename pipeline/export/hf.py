"""A dataset as Hugging Face `datasets` leaves it (`save_to_disk`), and its faiss index for `load_faiss_index`.

Columns key, uri and `embeddings`, a list of float32 of fixed length. Arrow files are written piece by piece, without
that library, which maps them into memory. The index has the snapshot's settings, its ids are the row numbers, and its
scores, as ours, inner products; they are not refined by the stored vectors, as our own search does by default.

    dataset = datasets.load_from_disk(folder)
    dataset.load_faiss_index("embeddings", f"{folder}/embeddings.faiss")
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.core.specs import digest_of
from pipeline.export import chunk_rows, count, named_rows, write_index
from pipeline.search.engine import SearchIndex

COLUMN, INFO, STATE = "embeddings", "dataset_info.json", "state.json"
FILE_BYTES = 500_000_000
"""Vectors in a file at most; what `save_to_disk` takes."""
FAISS = ".faiss"


def write(index: SearchIndex, folder: Path, kind: str) -> Iterator[str]:
    """Write data-*.arrow, the two JSON files and embeddings.faiss; UserError for kinds that are not a faiss file."""
    rows = count(index)
    spec = index.spec(kind)
    if spec.suffix != FAISS:
        fitting = [other for other in index.kinds if index.spec(other).suffix == FAISS]
        remedy = f"use {' or '.join(fitting)}" if fitting else "add an index of vectors to the recipe"
        raise UserError(f"--index {spec.kind}", "is no index that datasets reads", remedy)
    yield write_index(index, folder, kind, COLUMN)
    size, batches = _cut(index.dim, FILE_BYTES)
    files = -(-rows // (size * batches))
    names = [f"data-{number:05d}-of-{files:05d}.arrow" for number in range(files)]
    yield from write_data(index, folder, names, size, batches)
    features = _features(index.dim)
    snapshot = index.snapshot
    (folder / INFO).write_text(json.dumps({"description": "", "features": features}, indent=2))
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        # datasets keeps what it derives under this name: other rows, another name.
        "_fingerprint": digest_of([snapshot.version, snapshot.writer, snapshot.recipe.fingerprint])[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / STATE).write_text(json.dumps(state, indent=2))
    yield from (INFO, STATE)


def _cut(dim: int, file_bytes: int) -> tuple[int, int]:
    """Return the rows of a batch and the batches of a file."""
    most = max(1, file_bytes // (4 * dim))
    size = min(chunk_rows(dim), most)
    return size, most // size


def _features(dim: int) -> dict[str, Any]:
    # The name of lists before datasets 4, which later versions read as well.
    vector = {"feature": {"dtype": "float32", "_type": "Value"}, "length": dim, "_type": "Sequence"}
    text = {"dtype": "string", "_type": "Value"}
    return {"key": text, "uri": text, COLUMN: vector}


def write_data(index: SearchIndex, folder: Path, names: list[str], size: int, batches: int) -> Iterator[str]:
    """Write Arrow streams of `batches` record batches of `size` rows each, the last one shorter; yield their names."""
    fields = [("key", pa.string()), ("uri", pa.string()), (COLUMN, pa.list_(pa.float32(), index.dim))]
    metadata = {"huggingface": json.dumps({"info": {"features": _features(index.dim)}})}
    schema = pa.schema(fields, metadata=metadata)
    parts = named_rows(index, size)
    for name in names:
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            # The range comes first: where it ends, nothing is taken from the parts.
            for _, (_, named, vectors) in zip(range(batches), parts, strict=False):
                flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
                lists = pa.FixedSizeListArray.from_arrays(flat, type=schema.field(COLUMN).type)
                columns = [
                    pa.array([getattr(image, field) for image in named], pa.string()) for field in ("key", "uri")
                ]
                writer.write_batch(pa.record_batch([*columns, lists], schema=schema))
        yield name
