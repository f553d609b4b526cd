"""Views of scenes: viewpoint, crop, light, occlusion, camera; and tar shards and queries made of them.

Scenes are drawn, or photographs. A view is a function of (seed, scene, view) alone, and tar files are equal to the byte
from run to run.
"""

from __future__ import annotations

import io
import json
import tarfile
import uuid
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

from jobs.photographs import photograph, photographs
from jobs.scenes import SIZE, Generator, render_scene

QUERY_VIEW = 0
"""The view that is kept out of the collection and asked for."""
FIRST_PHOTOGRAPH = 1000
"""The number of the first scene that is a photograph."""
_FULL_TURN = 0.12
"""How far a corner may move, as a share of the side."""


def render_view(seed: int, scene: int, view: int) -> Image.Image:
    """Return one photograph-like view of a scene."""
    rng = np.random.default_rng([seed, scene, 1 + view])
    drawn = scene < FIRST_PHOTOGRAPH
    image = _viewpoint(rng, render_scene(seed, scene) if drawn else photograph(_photograph_name(scene)))
    if rng.random() < 0.6:
        _occlude(rng, image)
    return _camera(rng, _light(rng, image))


def view_bytes(seed: int, scene: int, view: int) -> bytes:
    """Return a view as JPEG; the quality varies with the view."""
    out = io.BytesIO()
    quality = int(np.random.default_rng([seed, scene, 1 + view, 7]).integers(62, 93))
    render_view(seed, scene, view).save(out, "JPEG", quality=quality)
    return out.getvalue()


def member_name(scene: int, view: int) -> str:
    """Return the file name of a view."""
    name = f"scene{scene:03d}" if scene < FIRST_PHOTOGRAPH else f"photograph-{_photograph_name(scene)}"
    return f"{name}-view{view}.jpg"


def write_tar(path: Path, seed: int, views: Iterable[tuple[int, int]]) -> None:
    """Write (scene, view) pairs as one WebDataset shard; several may write the same one at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
        for scene, view in views:
            data = view_bytes(seed, scene, view)
            member = tarfile.TarInfo(member_name(scene, view))
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    temporary.replace(path)


def write_queries(folder: Path, seed: int, scenes: Iterable[int], relevant: dict[int, list[str]]) -> Path:
    """Write one query view per scene, and ground_truth.json beside the folder; return the ground truth's path."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = {}
    for scene in scenes:
        name = member_name(scene, QUERY_VIEW)
        (folder / name).write_bytes(view_bytes(seed, scene, QUERY_VIEW))
        truth[name] = relevant[scene]
    path = folder.parent / "ground_truth.json"
    path.write_text(json.dumps(truth, indent=1))
    return path


def _photograph_name(scene: int) -> str:
    return list(photographs())[scene - FIRST_PHOTOGRAPH]


def _viewpoint(rng: Generator, image: Image.Image) -> Image.Image:
    """Look from elsewhere: the corners of a crop move, and the picture is drawn between them."""
    w, h = image.size
    zoom = rng.uniform(0.8, 1.0)
    left, top = rng.uniform(0, 1 - zoom) * w, rng.uniform(0, 1 - zoom) * h
    corners = np.array([[0, 0], [0, h], [w, h], [w, 0]]) * zoom + [left, top]
    corners += rng.uniform(-_FULL_TURN / 2, _FULL_TURN / 2, (4, 2)) * [w * zoom, h * zoom]
    corners = corners.clip([0, 0], [w, h])
    scale = rng.uniform(0.75, 1.0)
    size = (int(SIZE[0] * scale), int(SIZE[1] * scale))
    if rng.random() < 0.15:
        size = (int(size[1] * 0.95), size[1])
    return image.transform(
        size, Image.Transform.QUAD, [float(v) for v in corners.reshape(-1)], Image.Resampling.BICUBIC
    )


def _occlude(rng: Generator, image: Image.Image) -> None:
    """Put something in front: a pole, a passer-by, a leaf, a sign; at most about a fifth of the picture."""
    draw = ImageDraw.Draw(image)
    w, h = image.size
    tint = tuple(int(v) for v in rng.integers(20, 150, 3))
    x, kind = rng.uniform(0.1, 0.9) * w, int(rng.integers(4))
    if kind == 0:
        draw.rectangle((x, 0, x + w * rng.uniform(0.02, 0.06), h), fill=tint)
    elif kind == 1:
        r = h * rng.uniform(0.05, 0.08)
        y = h * rng.uniform(0.45, 0.65)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tint)
        draw.rounded_rectangle((x - 1.6 * r, y + r, x + 1.6 * r, h + r), r, fill=tint)
    elif kind == 2:
        y, r = rng.uniform(0, 1) * h, h * rng.uniform(0.1, 0.2)
        draw.ellipse((x - 2 * r, y - r, x + 2 * r, y + r), fill=tint)
    else:
        side, y = h * rng.uniform(0.15, 0.3), rng.uniform(0.1, 0.8) * h
        draw.rectangle((x, y, x + side * 1.3, y + side), fill=tint, outline=(235, 235, 235), width=4)


def _light(rng: Generator, image: Image.Image) -> Image.Image:
    """Exposure, contrast, white balance and a shadow across the picture."""
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.8, 1.2))
    image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.85, 1.15))
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.8, 1.15))
    balance = rng.uniform(0.94, 1.05, 3)
    bands = [
        band.point([min(255, int(v * gain)) for v in range(256)])
        for band, gain in zip(image.split(), balance, strict=True)
    ]
    image = Image.merge("RGB", bands)
    w, h = image.size
    angle = rng.uniform(0, 2 * np.pi)
    ys, xs = np.mgrid[0:h, 0:w]
    slope = (xs / w - 0.5) * np.cos(angle) + (ys / h - 0.5) * np.sin(angle)
    shade = 255 * (1 - rng.uniform(0, 0.35) / (1 + np.exp(-10 * slope)))
    return ImageChops.multiply(image, Image.merge("RGB", (Image.fromarray(shade.astype(np.uint8)),) * 3))


def _camera(rng: Generator, image: Image.Image) -> Image.Image:
    """Blur and sensor noise."""
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.3)))
    noise = rng.normal(0, rng.uniform(1, 6), (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
