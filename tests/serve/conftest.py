"""The service that browser tests visit: generated scenes with metadata, and a naughty name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.recipe import RecipeOptions
from jobs.scene_views import view_bytes
from tests.builders import run, tar_bytes, write_files
from tests.serve.served import Served, served
from tests.serve.visitor import SEED, Visitor

SCENES, VIEWS = 14, 4


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes in a tar, with their numbers as metadata; described by real weights where there are any."""
    folder = tmp_path_factory.mktemp("browser")
    members: dict[str, bytes] = {}
    for scene in range(SCENES):
        for view in range(VIEWS):
            name = f"scene-{scene:02d}-{view}"
            members[f"{name}.jpg"] = view_bytes(SEED, scene, view + 1)
            members[f"{name}.json"] = json.dumps({"scene": scene, "view": view}).encode()
    members["<b onmouseover=alert(1)>naughty</b>\u202e.jpg"] = view_bytes(SEED, 99, 1)
    source = write_files(folder / "src", {"scenes.tar": tar_bytes(members)})
    real = os.environ.get("SIGHTLINE_REAL_DATA", "")
    weights = f"{real}/weights/mobilenet_v2_imagenet_fp16.pth" if real else "random:0"
    recipe = RecipeOptions(
        backbone="mobilenet_v2" if real else "squeezenet1_1",
        weights=weights,
        resize="longest:256",
        indexes=("flat", "lsh"),
        # What a random network makes is all alike until it is whitened.
        whiten="none" if real else "pca",
        dims=None if real else 24,
        metadata="scene:int64,view:int64",
    )
    run(source, folder / "root", recipe=recipe)
    return folder / "root"


@pytest.fixture(scope="session")
def scene_site(scenes: Path) -> Iterator[Served]:
    with served(scenes) as site:
        yield site


@pytest.fixture
def visit(chromium: Any) -> Iterator[Any]:
    visitors: list[Visitor] = []

    def open_page(url: str, **settings: Any) -> Visitor:
        visitors.append(Visitor(chromium, url, **settings))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        visitor.context.close()
