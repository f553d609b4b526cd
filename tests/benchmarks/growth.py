"""How building grows with the collection: 10^5, 10^6 and 10^7 vectors in processes of their own; time and memory.

Run it by `python -m tests.benchmarks.growth [ROWS...]`; it prints one JSON object. 10^7 take ten minutes and 6 GB.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks import million

PHASES = ("table", "train", "fill", "commit")


def one(rows: int) -> dict[str, float]:
    """Build in this process."""
    with tempfile.TemporaryDirectory() as folder:
        return million.main(rows, Path(folder), search=False)


def main(sizes: list[int]) -> dict[str, float]:
    """Run and return the figures."""
    figures: dict[str, float] = {}
    totals = []
    for rows in sizes:
        command = [sys.executable, "-m", __spec__.name, "--one", str(rows)]
        told: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        figures |= {f"{rows} rows: {name}": value for name, value in told.items() if name != "rows"}
        totals.append(sum(told[name] for name in PHASES))
        figures[f"{rows} rows: all phases, s"] = totals[-1]
        if len(totals) > 1:
            figures[f"{rows} rows: time over that of the size before"] = totals[-1] / totals[-2]
    return figures


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(int(sys.argv[2]))))
    else:
        result = main([int(rows) for rows in sys.argv[1:]] or [100_000, 1_000_000, 10_000_000])
        print(json.dumps({key: round(value, 4) for key, value in result.items()}, indent=1))
