"""Every descriptor on real photographs: mAP, dimensions, cost and storage per image. `make table` runs it.

Museum: paintings photographed clean (qsd1) and with the wall around them (qsd2). Grocery: 519 photographs of 27
classes, each of which asks for the others of its class. `SIGHTLINE_REAL_DATA=FOLDER python -m tests.benchmarks.kinds`;
one JSON object, one entry per row. Milliseconds are a worker's, on all cores, fits included; `... kinds cost` measures
them alone, in a few minutes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.evaluate import EvaluateOptions, evaluate
from jobs.index import IndexOptions, IndexReport, run_index
from jobs.recipe import RecipeOptions
from pipeline.evaluate.average_precision import score
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.table import DescriptorReader
from tests.benchmarks.museum import FILES, ground_truth, quiet

PCA = '[whiten]\nmethod = "pca"\ndims = 128\n'
POOLED = '[extractor]\nkind = "pooled"\nresize = "longest:384"\n'
SIFT = '[extractor]\nkind = "sift"\nresize = "longest:512"\n'
SURF = SIFT + 'descriptor = "surf"\n'
VLAD = '[encode]\nmethod = "vlad"\nwords = 64\npca = 64\n'
DELF = '[extractor]\nkind = "delf"\nbackbone = "mobilenet_v2"\nresize = "longest:512"\nscales = [0.5, 0.7071, 1.0]\n'
LOCAL_PCA = "[whiten]\npower = 0.0\ndims = 40\n"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. recipe: TOML; weights: of the backbone, by its name; verify, index: how it is asked."""

    label: str
    recipe: str
    weights: str = ""
    index: str = "flat"
    verify: int = 0
    rerank: int | None = None
    grocery: bool = True


def pooled_rows() -> Iterator[Row]:
    """All poolings of both networks, with and without PCA."""
    for backbone in FILES:
        for pooling in ("gem", "mac", "spoc", "crow", "rmac", "raac"):
            text = f'{POOLED}backbone = "{backbone}"\npooling = "{pooling}"\n'
            for whitened, more in ((" + PCA 128", PCA), ("", "")):
                yield Row(label=f"{pooling} of {backbone}{whitened}", recipe=text + more, weights=backbone)


def coded_rows() -> Iterator[Row]:
    """Binary codes of one descriptor, ranked by Hamming distance alone."""
    text = f'{POOLED}backbone = "mobilenet_v2"\n{PCA}'
    for label, index, settings in (
        ("LSH, 256 random bits", "lsh", "nbits = 256\n"),
        ("LSH, 128 sampled bits", "lsh", 'rotation = "sample"\n'),
        ("ITQ, 128 bits", "lsh", 'rotation = "itq"\n'),
    ):
        asked = f"{text}[indexes.{index}]\n{settings}"
        yield Row(label=f"{label} of gem + PCA 128", recipe=asked, weights="mobilenet_v2", index=index, rerank=0)
    yield Row(
        label="signs of gem + PCA 128, stored as bits",
        recipe=f'dtype = "binary"\n{text}[indexes.binary]\n',
        weights="mobilenet_v2",
        index="binary",
        rerank=0,
    )


def local_rows() -> Iterator[Row]:
    """Local descriptors, encoded or voting, and verified by their geometry."""
    keep = "keep = true\n"
    bow = '[encode]\nmethod = "bow"\nwords = 4096\n'
    yield Row(label="RootSIFT, VLAD 64 x 64", recipe=SIFT + VLAD)
    yield Row(label="RootSIFT, VLAD 64 x 64 + PCA 128", recipe=SIFT + VLAD + PCA)
    yield Row(label="RootSIFT, BoW 4096", recipe=SIFT + bow)
    yield Row(label="RootSIFT, BoW 4096 + RANSAC of 100", recipe=SIFT + bow + keep, verify=100, grocery=False)
    yield Row(label="RootSIFT, Fisher 64 x 64", recipe=SIFT + VLAD.replace("vlad", "fisher"))
    yield Row(label="RootSIFT, Fisher 64 x 64 + PCA 128", recipe=SIFT + VLAD.replace("vlad", "fisher") + PCA)
    yield Row(label="RootSIFT, ASMK* 256 x 64", recipe=SIFT + '[encode]\nmethod = "asmk"\nwords = 256\npca = 64\n')
    yield Row(label="SURF, VLAD 64 x 64", recipe=SURF + VLAD)
    deep = VLAD.replace("pca = 64", "pca = 40")
    yield Row(label="DELF of mobilenet_v2, VLAD 64 x 40", recipe=DELF + deep, weights="mobilenet_v2")
    for verify in (0, 100):
        yield Row(
            label="DELF of mobilenet_v2, 40-d, votes" + (" + RANSAC of 100" if verify else ""),
            recipe=DELF + LOCAL_PCA,
            weights="mobilenet_v2",
            index="ivfpq",
            verify=verify,
            grocery=False,
        )
    mop = '[extractor]\nkind = "mop"\nbackbone = "squeezenet1_0"\n[encode]\nmethod = "mop"\nwords = 100\npca = 128\n'
    yield Row(label="MOP of squeezenet1_0", recipe=mop, weights="squeezenet1_0")


def plain_rows() -> Iterator[Row]:
    """What needs neither network nor codebook."""
    yield Row(label="HSV histogram 16 x 4 x 4", recipe='[extractor]\nkind = "histogram"\nbins = [16, 4, 4]\n')
    grid = '[extractor]\nkind = "histogram"\nbins = [8, 4, 4]\ngrid = 3\n'
    yield Row(label="HSV histogram 8 x 4 x 4, 3 x 3 cells", recipe=grid)
    rgb = '[extractor]\nkind = "histogram"\nspace = "rgb"\nbins = [6, 6, 6]\n'
    yield Row(label="RGB histogram 6 x 6 x 6", recipe=rgb)
    yield Row(label="HOG 128 x 128", recipe='[extractor]\nkind = "hog"\n')


def indexed(data: Path, source: Path, root: Path, row: Row) -> IndexReport:
    """Index a folder by the row's recipe; a root that has it already publishes nothing."""
    text = row.recipe if "[indexes" in row.recipe else f"{row.recipe}[indexes.{row.index}]\n"
    path = root.with_suffix(".toml")
    path.write_text(text)
    weights = str(data / "weights" / FILES[row.weights]) if row.weights else None
    options = RecipeOptions(recipe=str(path), weights=weights)
    return run_index(IndexOptions(source=str(source), root=str(root), recipe=options), quiet())


def grocery_map(root: Path, row: Row) -> float:
    """Mean average precision of every photograph asking for the others of its folder."""
    with SearchIndex.open(str(root)) as index:
        live = index.live()
        keys = [name.key for name in index.stored.names(live.file, live.row)]
        vectors = index.stored.vectors(live.file, live.row)
        found = index.search(vectors, SearchOptions(k=len(keys), index=row.index, rerank=row.rerank))
    classes: dict[str, set[str]] = {}
    for key in keys:
        classes.setdefault(key.split("/")[0], set()).add(key)
    relevant = {key: classes[key.split("/")[0]] - {key} for key in keys}
    rankings = {key: [hit.key for hit in hits if hit.key != key] for key, hits in zip(keys, found, strict=True)}
    return score(rankings, relevant).mean_average_precision


def measured(data: Path, folder: Path, row: Row, number: int) -> dict[str, Any]:
    """Return a row's figures."""
    museum = data / "museum"
    root = folder / f"museum-{number}"
    report = indexed(data, museum / "BBDD", root, row)
    found: dict[str, Any] = {}
    for queries in ("qsd1_w1", "qsd2_w1"):
        truth = ground_truth(museum, queries, folder)
        told = evaluate(
            EvaluateOptions(
                root=str(root),
                queries=str(museum / queries),
                ground_truth=str(truth),
                index=row.index,
                verify=row.verify,
                rerank=row.rerank,
            ),
            quiet(),
        )
        found[f"mAP {queries[:4]}"] = round(float(told["mAP"]), 4)
    if row.grocery:
        indexed(data, data / "grocery", folder / f"grocery-{number}", row)
        found["mAP grocery"] = round(grocery_map(folder / f"grocery-{number}", row), 4)
    last = folder_of(root, report)
    files = [path for path in last.glob("*.parquet") if ".rejects." not in path.name]
    images = report.images["indexed"]
    return {
        "dimensions": DescriptorReader(files[0]).dim,
        "per image": round(sum(DescriptorReader(path).rows for path in files) / images, 1),
        "ms per image": round(1000 * report.stats["busy_seconds"] / report.images["seen"], 1),
        "bytes per image": round(sum(path.stat().st_size for path in files) / images),
        **found,
    }


def folder_of(root: Path, report: IndexReport) -> Path:
    """Where a snapshot's descriptor files lie."""
    return root / "descriptors" / report.recipe.descriptor_id


def cost(data: Path, folder: Path, row: Row, number: int) -> dict[str, Any]:
    """Return what describing an image takes, from indexing alone."""
    report = indexed(data, data / "museum" / "BBDD", folder / f"cost-{number}", row)
    return {"ms per image": round(1000 * report.stats["busy_seconds"] / report.images["seen"], 1)}


def main(names: list[str]) -> None:
    """Measure the rows whose label holds one of the names, or all; after "cost" only what describing them takes."""
    data = Path(os.environ["SIGHTLINE_REAL_DATA"])
    rows = [*pooled_rows(), *coded_rows(), *local_rows(), *plain_rows()]
    measure = measured
    if names[:1] == ["cost"]:
        names, measure = names[1:], cost
    wanted = [row for row in rows if not names or any(name in row.label for name in names)]
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for number, row in enumerate(wanted):
            print(f"{row.label} ...", file=sys.stderr, flush=True)
            told[row.label] = measure(data, Path(temporary), row, number)
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
