"""`--decoding reduced` on 12-megapixel JPEGs at longest:1024: how much quicker it is, and how far vectors move.

Real photographs, enlarged to 4000 pixels, where SIGHTLINE_REAL_DATA names them, with the real MobileNetV2; else
generated pictures and random weights. Medians of three, in turn, one thread. `python -m tests.benchmarks.reduced`
prints one JSON object.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from jobs.scenes import render_scene
from jobs.weights import named_weights
from pipeline.core.local import LocalStore
from pipeline.decode import Resize, decode
from pipeline.extract.pooled import Spec
from pipeline.publish.catalog import Catalog
from tests.benchmarks.museum import FILES

COUNT, LONGEST = 12, 4000


def photographs() -> list[bytes]:
    """JPEGs of about 12 megapixels."""
    real = os.environ.get("SIGHTLINE_REAL_DATA")
    paths = sorted((Path(real) / "museum" / "BBDD").glob("*.jpg"))[:COUNT] if real else []
    opened = [Image.open(path).convert("RGB") for path in paths] or [render_scene(0, seed) for seed in range(COUNT)]
    made = []
    for image in opened:
        factor = LONGEST / max(image.size)
        size = (round(image.width * factor), round(image.height * factor))
        out = io.BytesIO()
        image.resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        made.append(out.getvalue())
    return made


def seconds(files: list[bytes], *, reduced: bool) -> float:
    """Time to decode and resize all of them."""
    resize = Resize.parse("longest:1024")
    started = time.perf_counter()
    for data in files:
        decode(data, resize, reduced=reduced)
    return time.perf_counter() - started


def cosines(files: list[bytes]) -> list[float]:
    """Cosine of the vectors of both ways, per photograph."""
    real = os.environ.get("SIGHTLINE_REAL_DATA")
    name = str(Path(real) / "weights" / FILES["mobilenet_v2"]) if real else "random:0"
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(folder)
        weights = Catalog(store).put_artifact(named_weights("mobilenet_v2", name).to_bytes(), "model.safetensors")
        found = []
        for decoding in ("full", "reduced"):
            spec = Spec.model_validate({"backbone": "mobilenet_v2", "weights": weights, "decoding": decoding})
            extractor = spec.build(store, torch.device("cpu"))
            found.append(np.concatenate([extractor.extract([extractor.prepare(data)]).vectors for data in files]))
    return [float(value) for value in np.einsum("nd,nd->n", *found)]


def main() -> None:
    """Measure and print."""
    files = photographs()
    seconds(files[:2], reduced=True)
    times = [(seconds(files, reduced=False), seconds(files, reduced=True)) for _ in range(3)]
    both = cosines(files)
    told = {
        "full over reduced decoding: time": round(median(full for full, _ in times) / median(r for _, r in times), 2),
        "cosine of the vectors, mean": round(float(np.mean(both)), 4),
        "cosine of the vectors, least": round(min(both), 4),
    }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
