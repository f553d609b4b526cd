"""A published collection of vectors with several index shards per kind, ties between them, and dead rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.delete import EditOptions, delete
from jobs.recipe import RecipeOptions
from tests.builders import run

DIM, FILES, PER_FILE = 32, 6, 90
ROWS = FILES * PER_FILE
RECIPE = """
indexes = [{indexes}]
dtype = "float32"
[source]
kind = "parquet"
key_column = "id"
[extractor]
kind = "precomputed"
dim = {dim}
origin = "tests"
"""


def publish_vectors(folder: Path, kinds: Sequence[str]) -> str:
    """Publish it; return its ROOT. Each file holds a third of the first one's vectors again, under other names."""
    recipe, source, root = folder / "recipe.toml", folder / "src", folder / "root"
    recipe.write_text(RECIPE.format(dim=DIM, indexes=", ".join(f'{{kind = "{kind}"}}' for kind in kinds)))
    source.mkdir()
    generator = np.random.default_rng(0)
    first = generator.normal(size=(PER_FILE, DIM)).astype(np.float32)
    for number in range(FILES):
        x = generator.normal(size=(PER_FILE, DIM)).astype(np.float32) if number else first
        x[: PER_FILE // 3] = first[: PER_FILE // 3]
        names = [f"{number}-{row:03d}" for row in range(PER_FILE)]
        table = pa.table({"id": names, "embedding": pa.array([*x.tolist()], pa.list_(pa.float32()))})
        pq.write_table(table, source / f"{number}.parquet")
    run(source, root, recipe=RecipeOptions(recipe=str(recipe)), rows_per_index_shard=PER_FILE)
    dead = [f"{number}.parquet/{number}-{row:03d}" for number in (1, 4) for row in range(0, PER_FILE, 7)]
    delete(EditOptions(root=str(root), keys=tuple(dead)))
    return str(root)
