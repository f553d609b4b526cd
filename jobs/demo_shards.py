"""The demo's collection: which views lie in which tar shard, drawn on a runner, and what is relevant to what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.photographs import photographs
from jobs.progress import Reporter
from jobs.scene_views import FIRST_PHOTOGRAPH, member_name, write_tar
from pipeline.core.errors import SightlineError
from pipeline.core.resources import PROCESS_BYTES, Resources
from pipeline.run.base import Runner

SEED = 0
SCENES, FIRST_SCENES, VIEWS = 200, 180, 3
"""Scenes in all, those in the first publication, and the views of each in the collection."""
SCENES_PER_SHARD = 20
PHOTOGRAPHS = "photographs.tar"


@dataclass(frozen=True, kw_only=True)
class TarItem:
    """A tar shard to draw: its path, the seed, and the (scene, view) pairs in it."""

    path: Path
    seed: int
    views: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class DrawTask:
    """Work for a runner: draws one tar shard; returns how many images it holds."""

    resources = Resources(memory=PROCESS_BYTES)

    def open(self, threads: int) -> DrawTask:  # noqa: ARG002 - part of the protocol
        """Nothing to load."""
        return self

    def __call__(self, item: TarItem) -> int:
        """Draw and write."""
        write_tar(item.path, item.seed, item.views)
        return len(item.views)


def tar_items(folder: Path, seed: int, scenes: range, views: range) -> list[TarItem]:
    """Return the shards that scenes are packed into: all views of SCENES_PER_SHARD scenes in each."""
    items = []
    for start in range(scenes.start, scenes.stop, SCENES_PER_SHARD):
        inside = range(start, min(start + SCENES_PER_SHARD, scenes.stop))
        pairs = tuple((scene, view) for scene in inside for view in views)
        items.append(TarItem(path=folder / f"scenes-{start // SCENES_PER_SHARD:04d}.tar", seed=seed, views=pairs))
    return items


def photograph_scenes() -> range:
    """Return the numbers of the scenes that are photographs: as many as are installed."""
    return range(FIRST_PHOTOGRAPH, FIRST_PHOTOGRAPH + len(photographs()))


def photograph_items(folder: Path, views: range) -> list[TarItem]:
    """Return the shard of photographs; none where none is installed."""
    pairs = tuple((scene, view) for scene in photograph_scenes() for view in views)
    return [TarItem(path=folder / PHOTOGRAPHS, seed=SEED, views=pairs)] if pairs else []


def draw(items: Sequence[TarItem], runner: Runner, reporter: Reporter, name: str) -> None:
    """Draw shards on the runner."""
    with reporter.phase(name, len(items)) as phase:
        for outcome in runner.map(DrawTask(), items):
            if outcome.value is None:
                raise SightlineError(f"{outcome.item.path}: {outcome.error}")
            phase.advance(outcome.value)


def key_of(scene: int, view: int) -> str:
    """Return the key of a view in the collection."""
    return f"scenes-{scene // SCENES_PER_SHARD:04d}.tar/{member_name(scene, view)}"


def split_last(source: Path) -> None:
    """Cut the newest shard in two, so that the second publication brings two new shards."""
    start = FIRST_SCENES
    name = source / f"scenes-{start // SCENES_PER_SHARD:04d}.tar"
    half = SCENES_PER_SHARD // 2
    for path, scenes in ((name, range(start, start + half)), (late(source), range(start + half, SCENES))):
        write_tar(path, SEED, ((scene, view) for scene in scenes for view in range(1, VIEWS + 1)))


def late(source: Path) -> Path:
    """Return the path of the last shard."""
    return source / f"scenes-{FIRST_SCENES // SCENES_PER_SHARD:04d}b.tar"


def relevant_keys(removed: tuple[int, int]) -> dict[int, list[str]]:
    """Return for each scene the keys of its views in the final collection."""
    found: dict[int, list[str]] = {}
    for scene in range(SCENES):
        shard = key_of(scene, 1).split("/")[0]
        if scene >= FIRST_SCENES + SCENES_PER_SHARD // 2:
            shard = late(Path()).name
        pairs = [(scene, view) for view in range(1, VIEWS + 1) if (scene, view) != removed]
        found[scene] = [f"{shard}/{member_name(*pair)}" for pair in pairs]
    for scene in photograph_scenes():
        found[scene] = [f"{PHOTOGRAPHS}/{member_name(scene, view)}" for view in range(1, VIEWS + 1)]
    return found


def chance_map(images: int, relevant: int) -> float:
    """Expected AP of a random ranking: ((R-1)/(N-1) · (N - H_N) + H_N) / N, with H_N the harmonic number."""
    harmonic = float((1.0 / np.arange(1, images + 1)).sum())
    return ((relevant - 1) / (images - 1) * (images - harmonic) + harmonic) / images
