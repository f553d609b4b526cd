"""`python -m tests.mutants [MODULE ...] [--sample N] [--seed N]`: which bugs no test would notice.

Prints figures by module; lists of survivors and of mutants that met the time limit lie in build/mutants/. Which of the
survivors matter, and why the others do not, is in docs/mutants.md.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.mutants.operators import mutants
from tests.mutants.table import MODULES
from tests.mutants.trial import Trial, preload, verdict

OUT = Path("build/mutants")
SLACK, LEAST = 4, 10.0
"""A mutant may take so many times as long as the module as it is, and so many seconds more."""


@dataclass
class Figures:
    """What became of the mutants of a module. total: of which those tried are a sample."""

    module: str
    total: int
    counts: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        tried = sum(self.counts.values())
        of = f"{tried} of {self.total}" if tried < self.total else str(tried)
        return (
            f"{self.module}: {of} mutants, {self.counts['killed']} killed, {self.counts['timeout']} by the time limit, "
            f"{self.counts['survived']} survived"
        )


def main() -> None:
    """Try the mutants of the modules that are named, or of all."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("modules", nargs="*", help="such as core/ranges; none means all")
    parser.add_argument("--sample", type=int, default=0, help="try so many mutants of a module, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", default="", help="FIRST-LAST: only mutants of these lines")
    options = parser.parse_args()
    wanted = [name for name in MODULES if not options.modules or any(part in name for part in options.modules)]
    OUT.mkdir(parents=True, exist_ok=True)
    preload()
    for name in wanted:
        print(tried(name, options), flush=True)


def tried(name: str, options: argparse.Namespace) -> Figures:
    """Try mutants of one module, and write down what survived."""
    found = mutants(Path(name))
    if options.lines:
        first, last = map(int, options.lines.split("-"))
        found = [mutant for mutant in found if first <= mutant.line <= last]
    figures = Figures(name, len(found))
    if options.sample and options.sample < len(found):
        found = random.Random(options.seed).sample(found, options.sample)
        found.sort(key=lambda mutant: mutant.line)
    tests = [path for path in MODULES[name] if Path(path).exists()]
    stem = name.replace("/", "-").removesuffix(".py")
    trial = Trial(module=Path(name), source=None, tests=tests, seconds=600.0, output=OUT / f"{stem}.log")
    sound, seconds = verdict(trial)
    assert sound == "survived", f"the tests of {name} fail as it is: see {trial.output}"
    with (OUT / f"{stem}.txt").open("w") as out:
        for mutant in found:
            outcome, _ = verdict(replace(trial, source=mutant.source, seconds=SLACK * seconds + LEAST))
            figures.counts[outcome] += 1
            if outcome != "killed":
                out.write(f"{outcome}: {mutant}\n")
                out.flush()
    return figures


if __name__ == "__main__":
    main()
