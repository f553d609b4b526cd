"""What one per cent more images costs, beside the full run, and what a rerun costs that finds nothing new.

Pictures are generated; the network is SqueezeNet with random weights on small images, so fixed costs show as much as
they ever do. Run it by `python -m tests.benchmarks.increment [IMAGES]`; it prints one JSON object.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
from pathlib import Path

from jobs.index import IndexOptions, run_index
from jobs.progress import Reporter
from jobs.recipe import RecipeOptions
from tests.builders import jpeg

RECIPE = RecipeOptions(
    backbone="squeezenet1_1", weights="random:0", resize="longest:160", indexes=("flat", "ivfpq"), source_kind="folder"
)


def write(folder: Path, start: int, count: int) -> None:
    """Write pictures of 160 x 120."""
    for number in range(start, start + count):
        (folder / f"{number:06d}.jpg").write_bytes(jpeg(number, 160, 120))


def timed(options: IndexOptions) -> tuple[float, dict[str, int]]:
    """Run; return seconds and what became of the images."""
    started = time.perf_counter()
    report = run_index(options, Reporter(io.StringIO()))
    return time.perf_counter() - started, report.images


def main(images: int, folder: Path) -> dict[str, float]:
    """Run and return the figures."""
    source = folder / "src"
    source.mkdir()
    write(source, 0, images)
    options = IndexOptions(source=str(source), root=str(folder / "root"), recipe=RECIPE)
    full, _ = timed(options)
    # What a run costs whatever it does: one image more.
    write(source, images, 1)
    one, _ = timed(options)
    write(source, images + 1, images // 100)
    percent, told = timed(options)
    nothing, again = timed(options)
    assert (told["added"], again["added"]) == (images // 100, 0)
    return {
        "images": images,
        "full run, s": full,
        "one image more, s (the constant)": one,
        "one per cent more, s": percent,
        "one per cent more, beyond the constant, % of the full run": 100 * (percent - one) / full,
        "nothing new, s": nothing,
    }


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps({key: round(value, 3) for key, value in main(count, Path(temporary)).items()}))
