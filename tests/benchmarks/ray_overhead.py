"""What Ray costs: a run on one worker against the same run in process, and how soon a submitted job runs.

Run it by `python -m tests.benchmarks.ray_overhead [IMAGES]`; it prints one JSON object: medians of three, in turn.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median

import ray

from jobs.index import IndexOptions, IndexReport, run_index
from jobs.progress import Reporter
from jobs.runners import RunnerOptions
from jobs.submit import submission_id
from pipeline.run.ray import RayOptions, RayRunner
from tests.benchmarks.memory import collection
from tests.builders import QUICK
from tests.run.nodes import REPOSITORY, Nodes

PER_SHARD, ROUNDS = 500, 3


def index(source: Path, root: Path, runner: RayRunner | None) -> tuple[float, IndexReport]:
    """Seconds of a whole run, and its report."""
    options = IndexOptions(source=str(source), root=str(root), recipe=QUICK, runner=RunnerOptions())
    started = time.perf_counter()
    report = run_index(options, Reporter(io.StringIO()), runner)
    return time.perf_counter() - started, report


def overhead(folder: Path, images: int) -> dict[str, float]:
    """Time on one Ray worker over time inline: of the whole run, its workers started, and of extraction alone."""
    source = collection(folder / "src", images, PER_SHARD)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    runner = RayRunner(RayOptions(workers=1))
    index(collection(folder / "warm", 50, PER_SHARD), folder / "warm-root", runner)
    whole: dict[str, list[float]] = {"inline": [], "ray": []}
    extract: dict[str, list[float]] = {"inline": [], "ray": []}
    for turn in range(ROUNDS):
        for name, carrier in (("inline", None), ("ray", runner)):
            seconds, report = index(source, folder / f"{name}{turn}", carrier)
            assert report.images["indexed"] == images
            whole[name].append(seconds)
            extract[name].append(report.seconds["extract"])
    runner.close()
    ray.shutdown()
    return {
        "images": images,
        "inline seconds": median(whole["inline"]),
        "ray / inline, whole run": median(whole["ray"]) / median(whole["inline"]),
        "ray / inline, extraction": median(extract["ray"]) / median(extract["inline"]),
    }


def status(nodes: Nodes, name: str) -> str:
    """What the job server says of a job; empty while it knows none of that name."""
    bearer = {"Authorization": f"Bearer {nodes.environment['RAY_AUTH_TOKEN']}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{nodes.jobs}/api/jobs/{name}", headers=bearer)) as answer:
            return str(json.load(answer)["status"])
    except urllib.error.HTTPError as error:
        assert error.code == 404, error
        return ""


def submission(folder: Path) -> dict[str, float]:
    """Seconds from calling `sightline submit` to the job's entrypoint running, and to the command's end."""
    nodes = Nodes(folder)
    running, returned = [], []
    try:
        nodes.head(cpus=2, dashboard=True)
        for turn in range(ROUNDS):
            command = ["index", str(folder / "src"), str(folder / f"root{turn}"), "--weights", "random:0"]
            started = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "jobs.cli", "submit", "--address", nodes.jobs, "--", *command],
                cwd=REPOSITORY,
                env=nodes.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            name = submission_id(command)
            while status(nodes, name) in {"", "PENDING"}:
                time.sleep(0.02)
            running.append(time.perf_counter() - started)
            assert process.wait() == 0
            returned.append(time.perf_counter() - started)
    finally:
        nodes.close()
    return {"submit to running, seconds": median(running), "submit returns, seconds": median(returned)}


def main(images: int) -> dict[str, float]:
    """Run and return the figures."""
    with tempfile.TemporaryDirectory() as name:
        return {**submission(Path(name)), **overhead(Path(name), images)}


if __name__ == "__main__":
    result = main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
    print(json.dumps({key: round(value, 4) for key, value in result.items()}))
