"""Progress on stderr: bars on a terminal, a plain line now and then otherwise. stdout is for results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.stages.computed import Computed

LINE_SECONDS = 10.0
WATCH_SECONDS = 1.0

Watcher = Callable[[str, int, float], None]
"""Hears of a phase: its name, items left, seconds taken."""


class Reporter:
    """Tells a person how far a run is. Phases follow one another; each counts items, and images where there are any."""

    def __init__(self, stream: TextIO | None = None, *, line_seconds: float = LINE_SECONDS) -> None:
        self._stream = stream or sys.stderr
        self._line_seconds = line_seconds
        self._console = Console(file=self._stream, highlight=False, soft_wrap=True)
        self.seconds: dict[str, float] = {}
        self.computed: list[Computed] = []
        self._watchers: list[Watcher] = []

    def say(self, line: str) -> None:
        """Write one line."""
        self._console.print(line, markup=False)

    def note(self, computed: Computed | None) -> None:
        """Keep what was computed, for the report; None is what was there."""
        if computed is not None:
            self.computed.append(computed)

    @contextmanager
    def watched(self, watcher: Watcher) -> Iterator[None]:
        """Tell a watcher how far the phases are."""
        self._watchers.append(watcher)
        try:
            yield
        finally:
            self._watchers.pop()

    def tell(self, name: str, left: int, seconds: float) -> None:
        """Tell the watchers."""
        for watcher in self._watchers:
            watcher(name, left, seconds)

    @contextmanager
    def phase(self, name: str, total: int | None = None, unit: str = "shards") -> Iterator[Phase]:
        """Time a phase and show its progress."""
        started = time.perf_counter()
        bar = self._bar() if self._console.is_terminal and total else None
        phase = Phase(self, name, total, unit, bar)
        try:
            if bar is not None:
                bar.start()
            yield phase
        finally:
            if bar is not None:
                bar.stop()
            took = time.perf_counter() - started
            self.seconds[name] = round(self.seconds.get(name, 0.0) + took, 3)
        phase.finish(took)
        self.tell(name, 0, self.seconds[name])

    def _bar(self) -> Progress:
        columns = (
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        return Progress(*columns, console=self._console, transient=True)

    @property
    def line_seconds(self) -> float:
        """How often a line is written where there is no terminal."""
        return self._line_seconds


class Phase:
    """One phase of a run, as the reporter shows it."""

    def __init__(self, reporter: Reporter, name: str, total: int | None, unit: str, bar: Progress | None) -> None:
        self._reporter, self._name, self._total, self._unit, self._bar = reporter, name, total, unit, bar
        self._started = self._last = self._watched = time.perf_counter()
        self._done = self._images = 0
        self._row = bar.add_task(name, total=total, rate="") if bar is not None else None

    def advance(self, images: int = 0) -> None:
        """Count one item, and the images in it."""
        self._done += 1
        self._images += images
        now = time.perf_counter()
        if self._total and now - self._watched > WATCH_SECONDS:
            self._watched = now
            self._reporter.tell(self._name, self._total - self._done, now - self._started)
        if self._bar is not None and self._row is not None:
            self._bar.update(self._row, advance=1, rate=self._rate())
        elif self._total and time.perf_counter() - self._last > self._reporter.line_seconds:
            self._last = time.perf_counter()
            elapsed = self._last - self._started
            eta = elapsed / self._done * (self._total - self._done)
            self._reporter.say(
                f"{self._name}: {self._done}/{self._total} {self._unit}, {self._rate() or 'counting'}, {eta:.0f} s left"
            )

    def finish(self, seconds: float) -> None:
        """Write the phase's closing line."""
        if self._done:
            rate = f", {self._rate()}" if self._images else ""
            self._reporter.say(f"{self._name}: {self._done} {self._unit} in {seconds:.1f} s{rate}")

    def _rate(self) -> str:
        elapsed = time.perf_counter() - self._started
        return f"{self._images / elapsed:.1f} images/s" if self._images and elapsed > 0 else ""
