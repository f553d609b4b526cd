"""All benchmarks, or those that are named, one after the other: `python -m tests.benchmarks [NAME...]`.

Writes build/benchmarks.json, and build/benchmarks.md with a table; both begin with the machine they were measured on.
Those of photographs run if SIGHTLINE_REAL_DATA names them.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

OUT = Path(__file__).parents[2] / "build"
NAMES = (
    "extraction",
    "batching",
    "reduced",
    "memory",
    "million",
    "growth",
    "sweep",
    "faiss_ratio",
    "filters",
    "increment",
    "control_plane",
    "ray_scaling",
    "ray_overhead",
    "distributed_search",
    "serving",
)
WITH_PHOTOGRAPHS = ("museum", "kinds", "localisation", "indexes")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":", 1)[1].strip() for line in facts.splitlines() if "model name" in line), "")
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "pyarrow")},
        "date": time.strftime("%Y-%m-%d"),
    }


def figures(name: str) -> dict[str, Any]:
    """Run one benchmark in a process of its own; return what it prints."""
    command = [sys.executable, "-m", f"tests.benchmarks.{name}"]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(text[text.index("{") : text.rindex("}") + 1])
    return found


def table(told: dict[str, Any]) -> str:
    """The same as Markdown."""
    on = ", ".join(f"{key} {value}" for key, value in told["machine"].items() if value is not None)
    rows, tables = [], []
    for name, found in told["figures"].items():
        if found and all(isinstance(value, dict) for value in found.values()):
            tables += ["", *_wide(name, found)]
        else:
            rows += [f"| {name} | {what} | {value} |" for what, value in found.items()]
    plain = ["", "| benchmark | figure | value |", "|---|---|---|", *rows] if rows else []
    return "\n".join([on, *plain, *tables, ""])


def _wide(name: str, found: dict[str, dict[str, Any]]) -> list[str]:
    """A table with one line per thing measured, and a column per figure."""
    columns = list(dict.fromkeys(column for values in found.values() for column in values))
    lines = [f"| {name} | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for what, values in found.items():
        cells = [str(values.get(column, "")) for column in columns]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return lines


def main(names: list[str]) -> None:
    """Run, and write after each, so that nothing is lost when one fails."""
    told: dict[str, Any] = {"machine": machine(), "figures": {}}
    OUT.mkdir(exist_ok=True)
    for name in names or [*NAMES, *(WITH_PHOTOGRAPHS if os.environ.get("SIGHTLINE_REAL_DATA") else ())]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        told["figures"][name] = figures(name)
        (OUT / "benchmarks.json").write_text(json.dumps(told, indent=1) + "\n")
        (OUT / "benchmarks.md").write_text(table(told))
    print((OUT / "benchmarks.md").read_text())


if __name__ == "__main__":
    main(sys.argv[1:])
