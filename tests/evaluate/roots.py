"""Collections of vectors, without images, that evaluation is tried on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jobs.recipe import RecipeOptions
from pipeline.core.types import Floats
from tests.builders import run

FILE = "a.npy"


def clustered(count: int, dim: int, clusters: int, seed: int = 0) -> tuple[Floats, list[int]]:
    """Vectors (count, dim) around cluster centres, and the number of the cluster of each."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(clusters, dim))
    mine = np.arange(count) % clusters
    return (centres[mine] + 0.8 * generator.normal(size=(count, dim))).astype(np.float32), mine.tolist()


def unit(x: Floats) -> Floats:
    """The vectors as they are stored: of length one, in half precision."""
    lengths = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    stored: Floats = (x / lengths).astype(np.float16).astype(np.float32)
    return stored


def published(folder: Path, x: Floats, names: list[str], indexes: str = "[indexes.flat]\n") -> Path:
    """Index vectors under names; keys are FILE, a slash and the name. Return the ROOT; called again it updates it."""
    source = folder / "src"
    source.mkdir(parents=True, exist_ok=True)
    (source / FILE.replace(".npy", ".txt")).write_text("\n".join(names))
    np.save(source / FILE, x)
    recipe = folder / "recipe.toml"
    recipe.write_text(f'[source]\nkind = "npy"\n[extractor]\nkind = "precomputed"\ndim = {x.shape[1]}\n' + indexes)
    run(source, folder / "root", recipe=RecipeOptions(recipe=str(recipe)))
    return folder / "root"
