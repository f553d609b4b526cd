"""Photographs that installed packages ship under free licences: subjects of the demo that nobody drew.

scikit-image's are CC0, in the public domain or without known restrictions (its docstrings say which), scikit-learn's
are CC BY 2.0, matplotlib's is in the public domain. Which there are depends on what is installed.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageOps

from jobs.scenes import SIZE

FILES: dict[str, tuple[str, ...]] = {
    "skimage/data": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "moon.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
    "matplotlib/mpl-data/sample_data": ("grace_hopper.jpg",),
}
"""Package and folder -> files."""


@lru_cache(maxsize=1)
def photographs() -> dict[str, Path]:
    """Return name -> file of the photographs that are installed, in a fixed order."""
    found = {}
    for folder, names in FILES.items():
        package, _, inside = folder.partition("/")
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        for name in names:
            path = Path(spec.submodule_search_locations[0]) / inside / name
            if path.is_file():
                found[path.stem] = path
    return found


@lru_cache(maxsize=32)
def photograph(name: str) -> Image.Image:
    """Return a photograph as an RGB image of a scene's size, its middle."""
    with Image.open(photographs()[name]) as image:
        return ImageOps.fit(image.convert("RGB"), SIZE, Image.Resampling.LANCZOS)
