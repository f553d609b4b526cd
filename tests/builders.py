"""Small things that tests build: images as bytes, collections in every layout, options of a quick run."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs.index import IndexOptions, IndexReport, run_index
from jobs.progress import Reporter
from jobs.recipe import RecipeOptions
from pipeline.publish.packing import Packing

QUICK = RecipeOptions(
    backbone="squeezenet1_1", weights="random:0", resize="longest:64", indexes=("flat",), whiten="none"
)
"""A recipe that describes an image in a few milliseconds."""


def picture(seed: int, width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    """A smooth random picture; equal seeds give equal pictures."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **keywords: object) -> bytes:
    """The picture's bytes in a format."""
    out = io.BytesIO()
    image.save(out, kind, **keywords)
    return out.getvalue()


def jpeg(seed: int, width: int = 64, height: int = 48) -> bytes:
    """A small JPEG."""
    return encoded(picture(seed, width, height), "JPEG", quality=90)


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files, with their folders."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def tar_bytes(files: Mapping[str, bytes]) -> bytes:
    """A tar archive as WebDataset writes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def write_parquet(path: Path, files: Mapping[str, bytes], **keywords: object) -> None:
    """A Parquet file in Hugging Face's image layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": data, "path": name} for name, data in files.items()]
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), path, **keywords)


def images(count: int, start: int = 0) -> dict[str, bytes]:
    """Numbered JPEGs of two shapes."""
    return {f"{i:04d}.jpg": jpeg(i, *((64, 48) if i % 3 else (48, 64))) for i in range(start, start + count)}


def run(
    source: Path | str, root: Path | str, *, recipe: RecipeOptions = QUICK, files: int = 4, **more: object
) -> IndexReport:
    """Index a source inline, silently."""
    options = IndexOptions(source=str(source), root=str(root), recipe=recipe, packing=Packing(files=files), **more)  # type: ignore[arg-type]
    return run_index(options, Reporter(io.StringIO()))
