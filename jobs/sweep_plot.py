"""The picture of a sweep: recall against latency, one curve per depth of re-ranking, and the setting that was found."""

from __future__ import annotations

import io
from typing import Any

from pipeline.core.extras import library

FORMS = (".svg", ".png")
INK, SOFT, LINE = "#1f2933", "#66727f", "#e3e7eb"
COLOURS = {True: "#4477aa", False: "#ee8866"}
"""Of the index alone, and of what is re-ranked."""
FOUND = "#117733"


def draw(data: dict[str, Any], form: str) -> bytes:
    """Return a sweep (see sweep.py) as an SVG or PNG file. A UserError says what to install without matplotlib."""
    matplotlib = library("matplotlib", "report", "--plot")
    figures = library("matplotlib.figure", "report", "--plot")
    settings = {
        "svg.hashsalt": "sightline",
        "font.size": 9.5,
        "text.color": INK,
        "axes.edgecolor": SOFT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "text.parse_math": False,
    }
    out = io.BytesIO()
    with matplotlib.rc_context(settings):
        figure = figures.Figure(figsize=(7, 4.4), layout="constrained", facecolor="white")
        _paint(figure.subplots(), data)
        figure.savefig(out, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
    return out.getvalue()


def _paint(axes: Any, data: dict[str, Any]) -> None:
    efforts: dict[Any, list[dict[str, Any]]] = {}
    for point in data["points"]:
        efforts.setdefault(point["effort"], []).append(point)
    for points in efforts.values():
        ordered = sorted(points, key=lambda point: point["rerank"])
        axes.plot(*_places(ordered), color=LINE, linewidth=1.4, zorder=1)
    for name, alone in (("the index alone", True), ("re-ranked", False)):
        mine = [point for point in data["points"] if (point["rerank"] == 0) == alone]
        if mine:
            axes.plot(*_places(mine), "o", linestyle="none", markersize=5, color=COLOURS[alone], label=name)
        for point in mine:
            # Below a point of the index alone its effort, above others how many are re-ranked.
            text = str(point["effort"] if alone and data["effort"] else point["rerank"])
            place = (point["p50_ms"], point["recall"])
            shift = (0, -12) if alone else (0, 6)
            axes.annotate(text, place, shift, textcoords="offset points", ha="center", color=SOFT, size=7.5)
    target = data["target"]
    axes.axhline(target, color=SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    edge = ("axes fraction", "data")
    axes.annotate(f"{target:g}", (1, target), (0, 3), xycoords=edge, textcoords="offset points", ha="right", color=SOFT)
    if data["found"]:
        label = "found" + (f": {data['effort']} {data['found']['effort']}" if data["effort"] else "")
        label += f", {data['found']['rerank']} re-ranked"
        axes.plot(
            *_places([data["found"]]), "o", markersize=11, fillstyle="none", color=FOUND, linestyle="none", label=label
        )
    axes.set_xlabel("milliseconds of a query (median)")
    axes.set_ylabel(f"recall@{data['k']}")
    axes.set_xscale("log")
    ticker = library("matplotlib.ticker", "report", "--plot")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.margins(x=0.08, y=0.12)
    axes.grid(color=LINE, linewidth=0.8)
    told = f"; labels: {data['effort']}, and candidates re-ranked" if data["effort"] else ""
    size = (
        f"{data['images']:,} x {data['dimensions']}, {data['found' if data['found'] else 'usual']['bytes']} bytes each"
    )
    axes.set_title(f"{data['index']}, {size}, {data['queries']} queries{told}", fontsize=9.5, loc="left")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False)


def _places(points: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [point["p50_ms"] for point in points], [point["recall"] for point in points]
