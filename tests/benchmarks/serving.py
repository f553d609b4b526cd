"""A ROOT served on loopback, asked by wrk: latency and rate at 1, 8 and 32 clients; and what faiss alone takes.

The museum and the grocery by uploaded photographs and by keys, where SIGHTLINE_REAL_DATA names them, and a million
synthetic vectors by vectors. The load generator (Debian: wrk) and the service share the cores.
`python -m tests.benchmarks.serving [ROWS]` prints one JSON object.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from jobs.recipe import RecipeOptions
from pipeline.search.engine import SearchIndex
from tests.benchmarks import million
from tests.builders import run

CLIENTS, SECONDS = (1, 8, 32), 10
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
SINGLE = 200
BOUNDARY = "sightline-bench"
POST = """
local bodies = {%s}
local number = 0
request = function()
  number = number %% #bodies + 1
  return wrk.format("POST", "%s", {["Content-Type"] = "%s"}, bodies[number])
end
"""
GET = """
local paths = {%s}
local number = 0
request = function()
  number = number %% #paths + 1
  return wrk.format("GET", paths[number])
end
"""


@contextmanager
def serving(root: Path, *more: str) -> Iterator[str]:
    """Serve ROOT in a process of its own; give its URL."""
    command = [sys.executable, "-m", "jobs.serve", str(root), "--port", "0", "--rate", "0", "--concurrency", "256"]
    process = subprocess.Popen([*command, "--json", *more], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None, "piped"
        yield json.loads(process.stdout.readline())["url"].rstrip("/")
    finally:
        process.terminate()
        process.wait(60)


def quoted(data: bytes) -> str:
    """Return bytes as a Lua string."""
    return '"' + "".join(f"\\{byte:03d}" for byte in data) + '"'


def upload(image: bytes) -> bytes:
    """Return the body of a form with an image."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'.encode()
    return head + image + f"\r\n--{BOUNDARY}--\r\n".encode()


def posts(path: str, kind: str, bodies: Sequence[bytes]) -> str:
    """Return a script that posts bodies in turn."""
    return POST % (",".join(quoted(body) for body in bodies), path, kind)


def load(url: str, script: str, clients: int) -> dict[str, float]:
    """Ask for some seconds; return milliseconds at the median and the 99th percentile, and answers a second."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        wrk = ["wrk", "-t1", f"-c{clients}", f"-d{SECONDS}s", "--timeout", "30s", "--latency", "-s", file.name, url]
        text = subprocess.run(wrk, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert "Non-2xx" not in text, text
    assert "Socket errors" not in text, text

    def milliseconds(share: str) -> float:
        match = re.search(rf"{share}%\s+([0-9.]+)(us|ms|s)\b", text)
        assert match, text
        return round(float(match[1]) * UNITS[match[2]], 2)

    rate = re.search(r"Requests/sec:\s+([0-9.]+)", text)
    assert rate, text
    return {"p50 ms": milliseconds("50"), "p99 ms": milliseconds("99"), "per second": round(float(rate[1]), 1)}


def loads(url: str, script: str) -> dict[str, dict[str, float]]:
    """Return the figures for each number of clients, after some answers that count for nothing."""
    load(url, script, 2)
    return {f"{clients} clients": load(url, script, clients) for clients in CLIENTS}


def bare(root: Path, kind: str, queries: np.ndarray[Any, Any], depth: int) -> float:
    """Return milliseconds that faiss takes for one query over the index shards, without anything around it."""
    with SearchIndex.open(str(root)) as index:
        spec = index.spec(kind)
        paths = sorted((root / "indexes" / index.snapshot.recipe.index_id(spec)).glob("*.faiss"))
    opened = [faiss.read_index(str(path), faiss.IO_FLAG_MMAP) for path in paths]
    for one in opened:
        one.search(queries[:1], depth)
    started = time.perf_counter()
    for query in queries[:SINGLE]:
        for one in opened:
            one.search(query[None], depth)
    return round(1000 * (time.perf_counter() - started) / len(queries[:SINGLE]), 3)


def photographs(data: Path, folder: Path) -> dict[str, Any]:
    """Museum and grocery, by MobileNetV2's real weights: uploads, which pass the network, and keys, which do not."""
    found: dict[str, Any] = {}
    weights = str(data / "weights" / "mobilenet_v2_imagenet_fp16.pth")
    sources = {"museum": (data / "museum" / "BBDD", data / "museum" / "qsd2_w1"), "grocery": (data / "grocery",) * 2}
    for name, (source, queries) in sources.items():
        recipe = RecipeOptions(
            backbone="mobilenet_v2", weights=weights, resize="longest:384", indexes=("flat", "ivfpq"), whiten="none"
        )
        run(source, folder / name, recipe=recipe, files=300)
        with SearchIndex.open(str(folder / name)) as index:
            live = index.live()
            keys = [one.key for one in index.stored.names(live.file, live.row)][:200]
            x = index.stored.vectors(live.file, live.row)
        images = sorted(queries.rglob("*.jpg"))[:30]
        script = posts("/search", f"multipart/form-data; boundary={BOUNDARY}", [upload(p.read_bytes()) for p in images])
        paths = GET % ",".join(f'"/similar/{key}"' for key in keys)
        with serving(folder / name) as url:
            found[f"{name}, upload"] = loads(url, script)
            found[f"{name}, key"] = loads(url, paths)
        alone = bare(folder / name, "flat", x, 10)
        found[f"{name}, key"] |= {"faiss alone ms": alone}
    return found


def synthetic(rows: int, folder: Path) -> dict[str, Any]:
    """A million vectors, asked by vectors: ivfpq with its usual re-ranking, and flat."""
    built = million.main(rows, folder / "million", search=False)
    centres = np.random.default_rng(0).normal(size=(million.CLUSTERS, million.DIM)).astype(np.float32)
    queries = million.vectors(10**6, 200, centres / np.sqrt(million.DIM))
    found: dict[str, Any] = {"rows": built["rows"]}
    with serving(folder / "million") as url:
        for kind, depth in (("ivfpq", 100), ("flat", 10)):
            bodies = [
                json.dumps({"vectors": [[round(float(v), 6) for v in q]], "ask": {"k": 10, "index": kind}}).encode()
                for q in queries
            ]
            figures: dict[str, Any] = loads(url, posts("/search/vectors", "application/json", bodies))
            alone = bare(folder / "million", kind, queries, depth)
            figures |= {"faiss alone ms": alone, "service ÷ faiss": round(figures["1 clients"]["p50 ms"] / alone, 2)}
            found[kind] = figures
    return found


def main(rows: int) -> dict[str, Any]:
    """Run and return the figures."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; on Debian: apt-get install wrk")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        data = os.environ.get("SIGHTLINE_REAL_DATA", "")
        if data:
            found |= photographs(Path(data), Path(temporary))
        found[f"{rows} vectors"] = synthetic(rows, Path(temporary))
    return found


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000), ensure_ascii=False))
