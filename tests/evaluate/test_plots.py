"""Plots are SVG that a page may hold: no style, no address, the page's colours, text as text."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.evaluate import plots
from pipeline.evaluate.svg import SERIES, draw

NASTY = '<b onload="x">$a_b^c$ & "q"'
GENERATOR = np.random.default_rng(0)
NORMALS = GENERATOR.normal(size=500)
CURVE = plots.Curve(kind="ivfpq", exact=True, seconds=[0.001, 0.002], recall=[0.5, 0.9], own=1)

PLOTS: dict[str, Callable[[], str]] = {
    "phases": lambda: plots.phases("p", [("2 index", {"plan": 1.0, "odd": 2.0}), ("1 index", {})], ["plan"]),
    "norms of units": lambda: plots.norms("p", 1 + 1e-4 * NORMALS),
    "norms of others": lambda: plots.norms("p", 5 + NORMALS),
    "spectrum": lambda: plots.spectrum("p", np.array([4.0, 2.0, 1.0, 0.0]), 2.3),
    "spectrum of one axis": lambda: plots.spectrum("p", np.array([4.0]), 1.0),
    "likeness": lambda: plots.likeness("p", (NORMALS / 9).astype(np.float32), np.full(9, 0.9, np.float32)),
    "occurrences": lambda: plots.occurrences("p", np.array([0, 0, 1, 40]), 10),
    "occurrences, all equal": lambda: plots.occurrences("p", np.array([10, 10, 10]), 10),
    "lists": lambda: plots.lists("p", "ivfpq", np.array([3, 0, 5])),
    "curves": lambda: plots.curves("p", [CURVE], 10),
    "curves of one point": lambda: plots.curves(
        "p", [plots.Curve(kind="flat", exact=True, seconds=[0.01], recall=[1.0])], 10
    ),
    "growth": lambda: plots.growth("p", [1, 2, 5], [0, 10, 7]),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_has_no_style_and_no_address_and_says_what_it_is(name: str) -> None:
    svg = PLOTS[name]()
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert root.attrib["role"] == "img"
    assert (root[0].tag, root[0].attrib["id"]) == ("title", root.attrib["aria-labelledby"])
    assert len(root[0].text or "") > 20
    assert "style" not in svg
    assert "http" not in svg
    assert not re.search(r"(?<![\w&])#0000[0-9a-f]{2}", svg), "a stand-in for a colour is left"
    coloured = {word for element in root.iter() for word in element.attrib.get("class", "").split()}
    assert any(word.startswith(("fill-series", "stroke-series")) for word in coloured)
    assert all(id_.startswith("p-") for element in root.iter() if (id_ := element.attrib.get("id")))


@pytest.mark.parametrize("name", PLOTS)
def test_equal_values_give_equal_plots(name: str) -> None:
    assert PLOTS[name]() == PLOTS[name]()


def test_names_are_text_whatever_they_hold() -> None:
    svg = plots.phases("p", [(NASTY, {NASTY: 1.0})], [NASTY])
    root = ElementTree.fromstring(svg)
    texts = [element.text for element in root.iter("text")]
    assert NASTY in texts
    assert "<b " not in svg


def test_a_plot_of_many_lists_is_no_longer_than_one_of_some() -> None:
    some, many = (plots.lists("p", "ivfpq", np.arange(count)) for count in (600, 200_000))
    assert len(many) < 1.3 * len(some) < 60_000


def test_every_class_of_a_plot_is_known_to_the_style_sheet() -> None:
    def paint(axes: Any) -> None:
        for number, colour in enumerate(SERIES):
            axes.plot([0, 1], [0, number], "o-", color=colour, label=str(number))
        axes.legend()

    made = " ".join([draw("p", "all colours", paint), *(plot() for plot in PLOTS.values())])
    used = {word for words in re.findall(r'class="([^"]*)"', made) for word in words.split()} - {"plot"}
    style = (Path(__file__).parents[2] / "jobs" / "page.css").read_text(encoding="utf-8")
    known = set(re.findall(r"\.([a-z]+-[a-z0-9]+) \{", style))
    assert used <= known
    assert len(used) >= 2 * len(SERIES)


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'sightline\[report\]'"):
        plots.available()
