"""Procedural scenes for the demo: facades, posters, landscapes and still lifes, each a picture of its own.

A scene is a function of (seed, number) alone. Scenes of a family share its vocabulary and often a palette, so that
telling them apart takes more than mean colour. Views of a scene, and files, are made in scene_views.py.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIZE = (480, 360)
"""Width and height of a scene; drawn at twice that and reduced, so that edges are smooth."""
_SCALE = 2
Color = tuple[int, int, int]
Generator = np.random.Generator

_HUES = ((0.02, 0.09, 0.55), (0.58, 0.62, 0.11), (0.33, 0.27, 0.98), (0.75, 0.83, 0.5), (0.08, 0.13, 0.62))
"""Hues of the shared palettes."""


def render_scene(seed: int, scene: int) -> Image.Image:
    """Return scene number `scene` of a seed as an RGB image of SIZE."""
    rng = np.random.default_rng([seed, scene, 0])
    families: tuple[Callable[[Generator, _Canvas], None], ...] = (_facade, _poster, _landscape, _still_life)
    canvas = _Canvas(_palette(rng))
    families[scene % len(families)](rng, canvas)
    image = canvas.image.resize(SIZE, Image.Resampling.LANCZOS)
    return _grained(rng, image)


class _Canvas:
    """A drawing surface and the palette it is drawn with."""

    def __init__(self, palette: list[Color]) -> None:
        self.palette = palette
        self.width, self.height = SIZE[0] * _SCALE, SIZE[1] * _SCALE
        self.image = Image.new("RGB", (self.width, self.height))
        self.draw = ImageDraw.Draw(self.image)

    def gradient(self, top: Color, bottom: Color, until: float = 1.0) -> None:
        """Fill the upper part with a vertical gradient."""
        rows = max(2, int(self.height * until))
        t = np.linspace(0.0, 1.0, rows)[:, None, None]
        column = (np.array(top) * (1 - t) + np.array(bottom) * t).astype(np.uint8)
        self.image.paste(Image.fromarray(np.repeat(column, self.width, axis=1)), (0, 0))


def _palette(rng: Generator) -> list[Color]:
    hues = _HUES[int(rng.integers(len(_HUES)))]
    colors = []
    for hue in [*hues, hues[0] + 0.04, hues[1] - 0.05]:
        saturation, value = rng.uniform(0.25, 0.8), rng.uniform(0.35, 0.95)
        r, g, b = colorsys.hsv_to_rgb((hue + rng.normal(0, 0.02)) % 1.0, saturation, value)
        colors.append((int(255 * r), int(255 * g), int(255 * b)))
    return colors


def _mix(a: Color, b: Color, t: float) -> Color:
    return (int(a[0] + (b[0] - a[0]) * t), int(a[1] + (b[1] - a[1]) * t), int(a[2] + (b[2] - a[2]) * t))


def _pick(rng: Generator, palette: list[Color]) -> Color:
    return palette[int(rng.integers(len(palette)))]


def _facade(rng: Generator, canvas: _Canvas) -> None:
    """A street front: two to four houses with their own windows, doors, roofs and cornices."""
    draw, w, h = canvas.draw, canvas.width, canvas.height
    canvas.gradient(_mix(canvas.palette[1], (235, 242, 250), 0.7), (238, 236, 230))
    draw.rectangle((0, int(h * 0.93), w, h), fill=(96, 92, 90))
    cuts = np.sort(rng.uniform(0.25, 0.78, int(rng.integers(1, 4))))
    edges = [0.0, *[float(c) for c in cuts], 1.0]
    for left, right in pairwise(edges):
        if right - left > 0.08:
            _house(rng, canvas, (int(left * w), int(right * w)))


def _house(rng: Generator, canvas: _Canvas, span: tuple[int, int]) -> None:
    draw, h = canvas.draw, canvas.height
    left, right = span
    top, bottom = int(h * rng.uniform(0.08, 0.32)), int(h * 0.93)
    wall = _mix(_pick(rng, canvas.palette), (232, 224, 210), rng.uniform(0.1, 0.6))
    dark, light = _mix(wall, (25, 22, 28), 0.7), _mix(wall, (255, 255, 250), 0.65)
    draw.rectangle((left, top, right, bottom), fill=wall)
    if rng.random() < 0.6:
        peak = (left + (right - left) * rng.uniform(0.35, 0.65), top - h * rng.uniform(0.06, 0.14))
        draw.polygon(
            [(left - 6, top), (right + 6, top), peak], fill=_mix(_pick(rng, canvas.palette), (60, 40, 40), 0.4)
        )
    else:
        draw.rectangle((left, top - 14, right, top + 8), fill=light)
    columns, rows = max(2, (right - left) // int(rng.integers(70, 130))), int(rng.integers(3, 7))
    cell_w, cell_h = (right - left) / columns, (bottom - top) / (rows + 0.6)
    arched, shutters, share = rng.random() < 0.4, rng.random() < 0.4, rng.uniform(0.4, 0.62)
    shutter = _pick(rng, canvas.palette)
    for row in range(rows):
        for column in range(columns):
            x0 = left + (column + (1 - share) / 2) * cell_w
            y0 = top + (row + 0.28) * cell_h
            box = (x0, y0, x0 + cell_w * share, y0 + cell_h * 0.6)
            lit = rng.random() < 0.2
            _window(draw, box, (244, 214, 140) if lit else dark, light, arched=arched)
            if shutters and row < rows - 1:
                edge = cell_w * 0.09
                draw.rectangle((box[0] - edge - 3, box[1], box[0] - 3, box[3]), fill=shutter)
                draw.rectangle((box[2] + 3, box[1], box[2] + edge + 3, box[3]), fill=shutter)
        if rng.random() < 0.5:
            draw.line((left, top + (row + 1) * cell_h, right, top + (row + 1) * cell_h), fill=light, width=5)
    door = left + (right - left) * rng.uniform(0.2, 0.7)
    draw.rectangle((door, bottom - cell_h * 0.95, door + cell_w * 0.6, bottom), fill=_mix(shutter, (30, 20, 20), 0.45))


def _window(
    draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], glass: Color, frame: Color, *, arched: bool
) -> None:
    x0, y0, x1, y1 = box
    draw.rectangle((x0 - 4, y0 - 4, x1 + 4, y1 + 6), fill=frame)
    if arched:
        draw.pieslice((x0 - 4, y0 - (x1 - x0) / 2, x1 + 4, y0 + (x1 - x0) / 2), 180, 360, fill=frame)
        draw.pieslice((x0, y0 - (x1 - x0) / 2 + 4, x1, y0 + (x1 - x0) / 2), 180, 360, fill=glass)
    draw.rectangle(box, fill=glass)
    draw.line(((x0 + x1) / 2, y0, (x0 + x1) / 2, y1), fill=frame, width=3)
    draw.line((x0, (y0 + y1) / 2, x1, (y0 + y1) / 2), fill=frame, width=3)


def _poster(rng: Generator, canvas: _Canvas) -> None:
    """A framed abstract composition of discs, bars, triangles and rings."""
    draw, w, h = canvas.draw, canvas.width, canvas.height
    paper = _mix(_pick(rng, canvas.palette), (250, 244, 228), rng.uniform(0.5, 0.9))
    draw.rectangle((0, 0, w, h), fill=paper)
    for _ in range(int(rng.integers(9, 17))):
        color = _pick(rng, canvas.palette)
        x, y, r = rng.uniform(0, w), rng.uniform(0, h), rng.uniform(0.04, 0.22) * h
        angle = rng.uniform(0, 2 * math.pi)
        kind = int(rng.integers(5))
        if kind == 0:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
        elif kind == 1:
            draw.ellipse((x - r, y - r, x + r, y + r), outline=color, width=int(r * rng.uniform(0.15, 0.4)))
        elif kind == 2:
            dx, dy = 2.5 * r * math.cos(angle), 2.5 * r * math.sin(angle)
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=color, width=int(r * 0.3))
        else:
            corners = 3 if kind == 3 else 4
            turns = [angle + 2 * math.pi * i / corners for i in range(corners)]
            draw.polygon([(x + r * math.cos(t), y + r * math.sin(t)) for t in turns], fill=color)
    if rng.random() < 0.5:
        x0, step = rng.uniform(0.05, 0.6) * w, rng.uniform(12, 26)
        y0, length = rng.uniform(0.1, 0.6) * h, rng.uniform(0.15, 0.4) * h
        for stripe in range(int(rng.integers(5, 12))):
            draw.line((x0 + stripe * step, y0, x0 + stripe * step, y0 + length), fill=(34, 30, 36), width=5)
    draw.rectangle((0, 0, w - 1, h - 1), outline=_mix(_pick(rng, canvas.palette), (40, 30, 24), 0.6), width=26)


def _landscape(rng: Generator, canvas: _Canvas) -> None:
    """Sky, sun, ranges of hills and a scatter of trees."""
    draw, w, h = canvas.draw, canvas.width, canvas.height
    canvas.gradient(_mix(canvas.palette[0], (70, 110, 190), 0.5), _mix(canvas.palette[2], (252, 232, 205), 0.75), 0.8)
    x, y, r = rng.uniform(0.1, 0.9) * w, rng.uniform(0.1, 0.35) * h, rng.uniform(0.04, 0.09) * h
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 244, 214))
    ground = _pick(rng, canvas.palette)
    layers = int(rng.integers(3, 6))
    xs = np.linspace(0, w, 161)
    for layer in range(layers):
        base = h * (0.42 + 0.5 * layer / layers)
        ridge = np.full_like(xs, base)
        for octave in range(4):
            wave = rng.uniform(0.8, 2.6) * 2**octave
            ridge += h * 0.09 / 1.8**octave * np.sin(2 * math.pi * (xs / w * wave + rng.random()))
        color = _mix(ground, (198, 214, 226), 0.75 * (1 - (layer + 1) / layers))
        points = [(float(px), float(py)) for px, py in zip(xs, ridge, strict=True)]
        draw.polygon([*points, (w, h), (0, h)], fill=_mix(color, (28, 44, 30), 0.25 + 0.2 * layer / layers))
        for _ in range(int(rng.integers(3, 10)) if layer else 0):
            place = int(rng.integers(5, len(xs) - 5))
            _tree(rng, draw, (float(xs[place]), float(ridge[place])), h * 0.05 * (1 + layer), color)


def _tree(rng: Generator, draw: ImageDraw.ImageDraw, foot: tuple[float, float], size: float, ground: Color) -> None:
    x, y = foot
    leaf = _mix(ground, (24, 60, 34), rng.uniform(0.5, 0.85))
    draw.rectangle((x - size * 0.05, y - size * 0.5, x + size * 0.05, y + size * 0.1), fill=(70, 50, 38))
    if rng.random() < 0.5:
        draw.polygon(
            [(x - size * 0.3, y - size * 0.25), (x + size * 0.3, y - size * 0.25), (x, y - size * 1.2)], fill=leaf
        )
    else:
        draw.ellipse((x - size * 0.38, y - size * 1.1, x + size * 0.38, y - size * 0.35), fill=leaf)


def _still_life(rng: Generator, canvas: _Canvas) -> None:
    """A table with fruit, bottles and boxes in front of a patterned wall."""
    draw, w, h = canvas.draw, canvas.width, canvas.height
    wall = _mix(_pick(rng, canvas.palette), (245, 238, 226), rng.uniform(0.2, 0.7))
    draw.rectangle((0, 0, w, h), fill=wall)
    step, mark = int(rng.integers(44, 90)), _mix(wall, _pick(rng, canvas.palette), 0.5)
    dots = rng.random() < 0.5
    for px in range(0, w, step):
        for py in range(0, int(h * 0.62), step):
            shift = step // 2 if (py // step) % 2 else 0
            if dots:
                draw.ellipse((px + shift, py, px + shift + step // 4, py + step // 4), fill=mark)
            else:
                draw.line((px + shift, py, px + shift + step // 2, py + step // 2), fill=mark, width=4)
    table = _mix(_pick(rng, canvas.palette), (120, 82, 52), 0.6)
    draw.rectangle((0, int(h * 0.62), w, h), fill=table)
    for line in range(6):
        y = h * (0.64 + 0.06 * line)
        draw.line((0, y, w, y + rng.uniform(-14, 14)), fill=_mix(table, (40, 24, 16), 0.25), width=3)
    for x in np.sort(rng.uniform(0.06, 0.94, int(rng.integers(5, 9)))):
        _object(rng, draw, (float(x) * w, h * rng.uniform(0.68, 0.92)), h * rng.uniform(0.12, 0.26), canvas.palette)


def _object(
    rng: Generator, draw: ImageDraw.ImageDraw, foot: tuple[float, float], size: float, palette: list[Color]
) -> None:
    x, y = foot
    color = _pick(rng, palette)
    shade, shine = _mix(color, (16, 12, 20), 0.4), _mix(color, (255, 255, 255), 0.55)
    draw.ellipse((x - size * 0.5, y - size * 0.08, x + size * 0.6, y + size * 0.1), fill=(58, 40, 32))
    kind = int(rng.integers(3))
    if kind == 0:
        r = size * 0.42
        draw.ellipse((x - r, y - 2 * r, x + r, y), fill=color, outline=shade, width=4)
        draw.ellipse((x - r * 0.55, y - r * 1.7, x - r * 0.1, y - r * 1.25), fill=shine)
    elif kind == 1:
        draw.rounded_rectangle((x - size * 0.24, y - size * 1.1, x + size * 0.24, y), size * 0.14, fill=color)
        draw.rectangle((x - size * 0.09, y - size * 1.6, x + size * 0.09, y - size), fill=shade)
        draw.rectangle((x - size * 0.24, y - size * 0.75, x + size * 0.24, y - size * 0.35), fill=shine)
    else:
        draw.rectangle((x - size * 0.45, y - size * 0.75, x + size * 0.45, y), fill=color, outline=shade, width=5)
        draw.line((x, y - size * 0.75, x, y), fill=shine, width=8)
        draw.line((x - size * 0.45, y - size * 0.4, x + size * 0.45, y - size * 0.4), fill=shine, width=8)


def _grained(rng: Generator, image: Image.Image) -> Image.Image:
    """Lay soft cloudy light and fine grain over the drawing, so that flat areas are not flat."""
    w, h = image.size
    coarse = rng.normal(128, 16, (h // 40 + 2, w // 40 + 2)).clip(0, 255).astype(np.uint8)
    cloud = Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(6))
    fine = Image.fromarray(rng.normal(128, 12, (h, w)).clip(0, 255).astype(np.uint8))
    lit = ImageChops.soft_light(image, Image.merge("RGB", (cloud,) * 3))
    return ImageChops.soft_light(lit, Image.merge("RGB", (fine,) * 3))
