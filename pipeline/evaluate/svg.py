"""Matplotlib's figures as SVG to be set into a page: coloured by the page's style sheet, with no style of their own.

Colours become classes (`fill-ink`, `stroke-series0` ...), so that a page's light and dark themes reach the plot, and a
content security policy need not allow style attributes. Text stays text. Equal figures give equal SVG.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from pipeline.core.extras import library

INK, SOFT, LINE = "#000001", "#000002", "#000003"
"""Stand-ins for the colours of text, of captions, and of what only guides the eye."""
SERIES = tuple(f"#0000{number:02x}" for number in range(16, 24))
"""Stand-ins for the colours of series."""

_NAMES = {INK: "ink", SOFT: "soft", LINE: "line", **{colour: f"series{n}" for n, colour in enumerate(SERIES)}}
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sightline",
    # Names of phases and of index kinds are text, whatever they hold.
    "text.parse_math": False,
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}
_SPACE = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_DROPPED = ("metadata", "style")


def draw(name: str, alt: str, paint: Callable[[Any], None], *, size: tuple[float, float] = (4.6, 2.9)) -> str:
    """Return the plot that `paint` makes on matplotlib's Axes, as an <svg> element. name: unique within the page.

    alt says what the plot shows, to who does not see it; size is width and height in inches of 72 units. A UserError
    says what to install where matplotlib is missing.
    """
    matplotlib = library("matplotlib", "report", "a report")
    with matplotlib.rc_context(_SETTINGS):
        figure = library("matplotlib.figure", "report", "a report").Figure(figsize=size, layout="constrained")
        paint(figure.subplots())
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    return themed(out.getvalue().decode(), name, alt)


def themed(svg: str, name: str, alt: str) -> str:
    """Return a document of matplotlib's as an element: classes for colours, attributes for styles, ids of its own."""
    root = ElementTree.fromstring(svg)  # noqa: S314 - made in this process, from numbers and labels
    _clean(root, name)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("class", "plot")
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title")
    title = ElementTree.Element("title", {"id": f"{name}-title"})
    title.text = alt
    root.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")


def _clean(element: ElementTree.Element, name: str) -> None:
    element.tag = element.tag.removeprefix(_SPACE)
    element.tail = None
    if element.tag != "text":
        element.text = None
    for child in list(element):
        if child.tag.removeprefix(_SPACE) in _DROPPED:
            element.remove(child)
        else:
            _clean(child, name)
    found: dict[str, str] = {}
    classes: list[str] = []
    for attribute, value in element.attrib.items():
        if attribute == "style":
            _unstyled(value, found, classes)
        elif attribute == "id":
            found["id"] = f"{name}-{value}"
        elif attribute == _LINK:
            found["href"] = f"#{name}-{value.removeprefix('#')}"
        else:
            shorter = re.sub(r"(\.\d\d)\d+", r"\1", value)
            found[attribute] = re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", shorter)
    if classes:
        found["class"] = " ".join(classes)
    element.attrib.clear()
    element.attrib.update(found)


def _unstyled(style: str, found: dict[str, str], classes: list[str]) -> None:
    """Turn the declarations of a style attribute into attributes and classes; the page decides about fonts."""
    for declaration in style.split(";"):
        prop, _, value = (part.strip() for part in declaration.partition(":"))
        if value in _NAMES:
            classes.append(f"{prop}-{_NAMES[value]}")
        elif prop and prop != "font-family":
            found[prop] = value.removesuffix("px") if prop == "font-size" else value
