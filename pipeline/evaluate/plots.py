"""The plots of a report, as SVG elements made of numbers. What they mean is said beside them, by the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.core.extras import library
from pipeline.core.types import Floats, Ints
from pipeline.evaluate.health import Doubles
from pipeline.evaluate.svg import SERIES, SOFT, draw

SERIES_SHOWN = len(SERIES)
BINS = 40
OTHER = "other"

Curve = Sequence[tuple[float, float, str]]
"""(seconds, recall, label) of each point of one index kind."""


def available() -> None:
    """Raise a UserError that says what to install, where nothing can be drawn."""
    library("matplotlib", "report", "a report")


def phases(name: str, runs: Sequence[tuple[str, Mapping[str, float]]], order: Sequence[str]) -> str:
    """One bar per run, first on top: the share of its time (seconds) that each phase took, of `order` and others."""
    totals = [sum(taken.values()) for _, taken in runs]
    shown = [phase for phase in order if any(phase in taken for _, taken in runs)][: SERIES_SHOWN - 1]
    rest = {label: sum(s for phase, s in taken.items() if phase not in shown) for label, taken in runs}

    def paint(axes: Any) -> None:
        places = np.arange(len(runs))
        left = np.zeros(len(runs))
        for number, phase in enumerate([*shown, *([OTHER] if any(rest.values()) else [])]):
            seconds = [rest[label] if phase == OTHER else taken.get(phase, 0.0) for label, taken in runs]
            width = np.array([100 * s / t if t else 0.0 for s, t in zip(seconds, totals, strict=True)])
            axes.barh(places, width, left=left, height=0.62, color=SERIES[number], label=phase)
            left += width
        axes.set(xlim=(0, 100), xlabel="% of the run's time", yticks=places)
        axes.set_yticklabels([f"{label}\n{_seconds(t)}" for (label, _), t in zip(runs, totals, strict=True)])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        _legend(axes, 5)

    told = "; ".join(f"{label} {_seconds(total)}" for (label, _), total in zip(runs, totals, strict=True))
    return draw(
        name, f"Phases of the last runs, as shares of their time: {told}", paint, size=(4.6, 1.35 + 0.55 * len(runs))
    )


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def norms(name: str, values: Doubles) -> str:
    """A histogram of lengths; of unit vectors, of their difference from 1."""
    apart = float(np.abs(values - 1).max())

    def paint(axes: Any) -> None:
        if apart < 0.05:
            axes.hist((values - 1) * 1e4, bins=BINS, color=SERIES[0])
            axes.set_xlabel("length − 1, in 1/10,000")
        else:
            axes.hist(values, bins=BINS, color=SERIES[0])
            axes.set_xlabel("length")
        axes.set_ylabel("vectors")
        axes.grid(visible=False, axis="x")

    return draw(name, f"Histogram of lengths, from {values.min():.4f} to {values.max():.4f}", paint)


def spectrum(name: str, eigenvalues: Doubles, effective: float) -> str:
    """The share of variance that the largest axes hold together, against that of equal axes."""
    share = np.concatenate([[0.0], np.cumsum(eigenvalues) / eigenvalues.sum()])
    axes_count = len(eigenvalues)

    def paint(axes: Any) -> None:
        axes.plot(np.arange(axes_count + 1), 100 * share, color=SERIES[0])
        axes.plot([0, axes_count], [0, 100], color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        axes.axvline(effective, color=SERIES[1], linewidth=1.4)
        side = "left" if effective < 0.6 * axes_count else "right"
        gap = axes_count * (0.02 if side == "left" else -0.02)
        axes.text(effective + gap, 6, f"effective {effective:.0f}", color=SERIES[1], ha=side)
        axes.set(xlabel="largest axes", ylabel="% of variance", xlim=(0, axes_count), ylim=(0, 101))

    alt = f"Cumulative share of variance over {axes_count} axes; the effective dimension is {effective:.0f}"
    return draw(name, alt, paint)


def likeness(name: str, strangers: Floats, nearest: Floats) -> str:
    """Cosines of random pairs, and of each vector with its nearest other, as shares of their number."""
    low, high = float(min(strangers.min(), nearest.min())), max(1.0, float(nearest.max()))
    bins = np.linspace(low, high, BINS + 1)

    def paint(axes: Any) -> None:
        for number, (label, values) in enumerate((("random pairs", strangers), ("nearest other", nearest))):
            weights = np.full(len(values), 100 / len(values))
            axes.hist(values, bins=bins, weights=weights, color=SERIES[number], alpha=0.75, label=label)
        axes.set(xlabel="cosine", ylabel="% of pairs", xlim=(low, high))
        axes.grid(visible=False, axis="x")
        _legend(axes, 2)

    alt = f"Cosines of random pairs, {strangers.mean():.2f} on average, and of nearest others, {nearest.mean():.2f}"
    return draw(name, alt, paint)


def occurrences(name: str, counts: Ints, k: int) -> str:
    """How many vectors are so often among the k nearest of others; both axes from 0, vectors on a logarithmic one."""

    def paint(axes: Any) -> None:
        edges = np.linspace(0, counts.max() + 1, min(BINS, int(counts.max()) + 1) + 1)
        axes.hist(counts, bins=edges, color=SERIES[0])
        axes.axvline(k, color=SERIES[1], linewidth=1.4)
        axes.text(k + 0.02 * counts.max(), 0.96, f"mean {k}", color=SERIES[1], va="top", transform=_mixed(axes))
        axes.set(xlabel=f"times among the {k} nearest of others", ylabel="images", yscale="log", xlim=(0, edges[-1]))
        _plain(axes.yaxis)
        axes.grid(visible=False, axis="x")

    return draw(name, f"How often images are among the {k} nearest of others: up to {counts.max()} times", paint)


def lists(name: str, kind: str, sizes: Ints) -> str:
    """The sizes of inverted lists, largest first, against equal ones."""
    ordered = np.sort(sizes)[::-1]

    def paint(axes: Any) -> None:
        axes.fill_between(np.arange(len(ordered) + 1), np.append(ordered, ordered[-1]), step="post", color=SERIES[0])
        axes.axhline(float(sizes.mean()), color=SERIES[1], linewidth=1.4)
        axes.text(len(ordered), float(sizes.mean()), "equal lists ", color=SERIES[1], ha="right", va="bottom")
        axes.set(xlabel="lists, largest first", ylabel="vectors", xlim=(0, len(ordered)), ylim=(0, None))
        axes.grid(visible=False, axis="x")

    alt = f"Sizes of the {len(sizes)} lists of {kind}: {ordered[0]} vectors at most, {sizes.mean():.1f} on average"
    return draw(name, alt, paint)


def curves(name: str, found: Mapping[str, Curve], k: int) -> str:
    """Recall against the median time of a query, a line per index kind; the label of a point stands beside it."""

    def paint(axes: Any) -> None:
        for number, (kind, points) in enumerate(found.items()):
            seconds, recall, _ = zip(*points, strict=True)
            axes.plot(1e3 * np.array(seconds), recall, marker="o", color=SERIES[number % SERIES_SHOWN], label=kind)
            for x, y, label in points:
                axes.annotate(label, (1e3 * x, y), (6, -4), textcoords="offset points", color=SOFT, size=9)
        axes.set(xlabel="milliseconds of a query (median)", ylabel=f"recall@{k}", xscale="log")
        axes.set_ylim(top=1.03)
        _plain(axes.xaxis)
        axes.margins(x=0.1, y=0.15)
        _legend(axes, 2)

    told = "; ".join(
        f"{kind} from {min(p[1] for p in c):.3f} to {max(p[1] for p in c):.3f}" for kind, c in found.items()
    )
    return draw(name, f"Recall@{k} against the time of a query: {told}", paint, size=(4.6, 3.7))


def growth(name: str, versions: Sequence[int], images: Sequence[int]) -> str:
    """The images of each snapshot."""

    def paint(axes: Any) -> None:
        axes.step(versions, images, where="mid", color=SERIES[0])
        axes.plot(versions, images, "o", color=SERIES[0])
        axes.set(xlabel="snapshot", ylabel="images", ylim=(0, 1.08 * max(1, *images)))
        axes.xaxis.get_major_locator().set_params(integer=True)

    return draw(name, f"Images of snapshots {versions[0]} to {versions[-1]}: {images[0]} to {images[-1]}", paint)


def _legend(axes: Any, columns: int) -> None:
    """Name the series above the plot, row by row; matplotlib fills column by column."""
    handles, labels = axes.get_legend_handles_labels()
    columns = min(columns, len(labels))
    order = [place for first in range(columns) for place in range(first, len(labels), columns)]
    axes.legend(
        [handles[place] for place in order],
        [labels[place] for place in order],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=columns,
        handlelength=1,
        columnspacing=1.2,
    )


def _plain(axis: Any) -> None:
    """Give a logarithmic axis ticks at 1, 2 and 5, written as numbers."""
    axis.set_major_locator(library("matplotlib.ticker", "report", "a report").LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda *_: "")


def _mixed(axes: Any) -> Any:
    """Return coordinates of the data across, of the axes up."""
    return axes.get_xaxis_transform()
