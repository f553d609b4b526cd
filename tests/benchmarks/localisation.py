"""Localisation on composites: paintings pasted at known boxes onto other photographs, asked for by the painting.

Reports the mean intersection over union of the returned box and the pasted painting, by RANSAC over RootSIFT, and by
regions of the feature map. `SIGHTLINE_REAL_DATA=FOLDER python -m tests.benchmarks.localisation`; one JSON object.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from jobs.index import IndexOptions, run_index
from jobs.query import QueryOptions, query
from jobs.recipe import RecipeOptions
from pipeline.search.engine import SearchOptions
from tests.benchmarks.museum import FILES, quiet

Box = tuple[float, float, float, float]
SIFT = '[extractor]\nkind = "sift"\n[encode]\nmethod = "vlad"\nwords = 16\nkeep = true\n[indexes.flat]\n'
COUNT = 40


def composites(data: Path, folder: Path, count: int) -> dict[Path, Box]:
    """Write `count` composites named like their paintings; return painting -> where it was pasted."""
    random = np.random.default_rng(0)
    paintings = sorted((data / "museum" / "BBDD").glob("*.jpg"))
    shelves = sorted((data / "grocery").rglob("*.jpg"))
    folder.mkdir(parents=True)
    made: dict[Path, Box] = {}
    for number in range(count):
        path = paintings[number * (len(paintings) // count)]
        ground = shelves[random.integers(len(shelves))] if number % 2 else paintings[(number * 7 + 37) % len(paintings)]
        with Image.open(path) as opened, Image.open(ground) as behind:
            painting, scene = opened.convert("RGB"), behind.convert("RGB")
        scene = scene.resize((512, round(512 * scene.height / scene.width)))
        share = random.uniform(0.35, 0.65) * min(scene.width / painting.width, scene.height / painting.height)
        small = painting.resize((int(painting.width * share), int(painting.height * share)), Image.Resampling.LANCZOS)
        left = int(random.integers(0, scene.width - small.width + 1))
        top = int(random.integers(0, scene.height - small.height + 1))
        scene.paste(small, (left, top))
        scene.save(folder / path.name, quality=92)
        made[path] = (left, top, small.width, small.height)
    return made


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the intersection over the union of two boxes (x, y, width, height)."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def mean_iou(root: Path, made: dict[Path, Box], *, verify: int = 0, locate: bool = False) -> float:
    """Ask for each painting; a composite that is not found, or not located, counts as 0."""
    found = []
    for path, box in made.items():
        search = SearchOptions(k=len(made), verify=verify)
        hits = query(QueryOptions(root=str(root), images=[str(path)], search=search, locate=locate))
        mine = [hit for hit in hits["results"][0]["hits"] if hit["key"] == path.name and hit.get("box")]
        found.append(iou(mine[0]["box"], box) if mine else 0.0)
    return float(np.mean(found))


def by_ransac(source: Path, folder: Path, made: dict[Path, Box]) -> float:
    """Locate by the inliers of RootSIFT."""
    recipe = folder / "sift.toml"
    recipe.write_text(SIFT)
    root = folder / "sift"
    options = IndexOptions(source=str(source), root=str(root), recipe=RecipeOptions(recipe=str(recipe)))
    run_index(options, quiet())
    return mean_iou(root, made, verify=len(made))


def by_regions(
    data: Path, source: Path, folder: Path, made: dict[Path, Box], backbone: str, pooling: str, resize: str
) -> float:
    """Locate by the regions of the feature map; only the composite of each painting is looked at."""
    options = RecipeOptions(
        backbone=backbone,
        weights=str(data / "weights" / FILES[backbone]),
        pooling=pooling,
        resize=resize,
        indexes=("flat",),
    )
    found = []
    for number, (path, box) in enumerate(made.items()):
        # A collection of one: what is measured is the box, not the ranking.
        alone = folder / f"{backbone}-{pooling}-{number}"
        alone.mkdir()
        (alone / path.name).symlink_to(source / path.name)
        root = folder / f"{alone.name}-root"
        run_index(IndexOptions(source=str(alone), root=str(root), recipe=options), quiet())
        found.append(mean_iou(root, {path: box}, locate=True))
    return float(np.mean(found))


def main() -> None:
    """Measure and print."""
    data = Path(os.environ["SIGHTLINE_REAL_DATA"])
    told: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = composites(data, folder / "composites", COUNT)
        told["RANSAC over RootSIFT: mean IoU"] = round(by_ransac(folder / "composites", folder, made), 3)
        for backbone in FILES:
            for pooling in ("rmac", "gem"):
                value = by_regions(data, folder / "composites", folder, made, backbone, pooling, "longest:1024")
                told[f"regions of {backbone}, {pooling}: mean IoU"] = round(value, 3)
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
