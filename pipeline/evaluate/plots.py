"""The plots of a report, as SVG elements made of numbers. What they mean is said beside them, by the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.extras import library
from pipeline.core.types import Floats, Ints
from pipeline.evaluate.health import Doubles
from pipeline.evaluate.svg import SERIES, SOFT, draw

SERIES_SHOWN = len(SERIES)
BINS = 40
LISTS_DRAWN = 512
OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Measured points of an index kind by growing effort. own: which of them is the recipe's setting, if any is.

    exact: scores are exact, by themselves or after re-ranking.
    """

    kind: str
    exact: bool
    seconds: Sequence[float]
    recall: Sequence[float]
    own: int | None = None


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
        axes.axvline(effective, color=SERIES[1], linewidth=1.6, label=f"effective dimension {effective:.0f}")
        _legend(axes, 1)
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
        axes.axvline(k, color=SERIES[1], linewidth=1.6, label=f"mean {k}")
        _legend(axes, 1)
        axes.set(xlabel=f"times among the {k} nearest of others", ylabel="images", yscale="log", xlim=(0, edges[-1]))
        _numbered(axes.yaxis)
        axes.grid(visible=False, axis="x")

    return draw(name, f"How often images are among the {k} nearest of others: up to {counts.max()} times", paint)


def lists(name: str, kind: str, sizes: Ints) -> str:
    """The sizes of inverted lists, largest first, against equal ones; of many lists some, evenly chosen by rank."""
    ordered = np.sort(sizes)[::-1]
    edges = np.linspace(0, len(ordered), min(len(ordered), LISTS_DRAWN) + 1)
    drawn = ordered[((edges[:-1] + edges[1:]) / 2).astype(int)]

    def paint(axes: Any) -> None:
        axes.fill_between(edges, np.append(drawn, drawn[-1]), step="post", color=SERIES[0])
        axes.axhline(float(sizes.mean()), color=SERIES[1], linewidth=1.6, label="if lists were equal")
        _legend(axes, 1)
        axes.set(xlabel="lists, largest first", ylabel="vectors", xlim=(0, len(ordered)), ylim=(0, None))
        axes.grid(visible=False, axis="x")

    alt = f"Sizes of the {len(sizes)} lists of {kind}: {ordered[0]} vectors at most, {sizes.mean():.1f} on average"
    return draw(name, alt, paint)


def curves(name: str, found: Sequence[Curve], k: int) -> str:
    """Recall against the median time of a query: a colour per kind, solid where scores are exact, else dashed."""
    kinds = list(dict.fromkeys(curve.kind for curve in found))

    def paint(axes: Any) -> None:
        for curve in found:
            colour = SERIES[kinds.index(curve.kind) % SERIES_SHOWN]
            milliseconds, style = 1e3 * np.array(curve.seconds), "-" if curve.exact else (0, (4, 2.5))
            face = colour if curve.exact else "none"
            axes.plot(milliseconds, curve.recall, "o", linestyle=style, color=colour, markerfacecolor=face)
            if curve.own is not None:
                ring = {"markerfacecolor": "none", "markersize": 10, "markeredgewidth": 1.4}
                axes.plot(milliseconds[curve.own], curve.recall[curve.own], "o", color=colour, **ring)
        for kind, colour in zip(kinds, SERIES * (1 + len(kinds) // SERIES_SHOWN), strict=False):
            axes.plot([], [], "o-", color=colour, label=kind)
        axes.set(xlabel="milliseconds of a query (median)", ylabel=f"recall@{k}", xscale="log")
        axes.set_ylim(top=1.04)
        _numbered(axes.xaxis)
        axes.margins(x=0.1, y=0.12)
        _legend(axes, 4)

    told = "; ".join(
        f"{curve.kind}{'' if curve.exact else ' not re-ranked'} from {min(curve.recall):.3f} to {max(curve.recall):.3f}"
        for curve in found
    )
    return draw(name, f"Recall@{k} against the time of a query: {told}", paint, size=(4.6, 3.4))


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


def _numbered(axis: Any) -> None:
    """Give a logarithmic axis ticks at 1, 2 and 5, written as numbers."""
    axis.set_major_locator(library("matplotlib.ticker", "report", "a report").LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda *_: "")
