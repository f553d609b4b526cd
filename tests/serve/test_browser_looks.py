"""The page in a real Chromium: how it looks and for whom; SIGHTLINE_PICTURES names a folder for screenshots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.recipe import RecipeOptions
from jobs.scene_views import view_bytes
from tests.builders import run
from tests.serve.served import Served, served
from tests.serve.visitor import SEED

pytestmark = pytest.mark.browser

AXE = Path("build/npm/node_modules/axe-core/axe.min.js")
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 800, 1280, 2200])
def test_nothing_overflows_at_any_width(visit: Any, scene_site: Served, width: int, theme: str) -> None:
    visitor = visit(scene_site.url, viewport={"width": width, "height": 800}, color_scheme=theme)
    visitor.choose(view_bytes(SEED, 2, 1))
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width
    rows = visitor.page.locator("ol.grid li").evaluate_all(
        "all => all.map(one => [one.offsetTop, one.offsetLeft + one.offsetWidth])"
    )
    area = visitor.page.evaluate("(list => list.offsetLeft + list.offsetWidth)(document.querySelector('ol.grid'))")
    ends = [max(right for top, right in rows if top == row) for row in sorted({top for top, _ in rows})]
    # Every row but the last is as wide as the list.
    assert all(area - 4 <= end <= area + 1 for end in ends[:-1]), (ends, area)


def test_it_works_by_touch_on_a_phone(visit: Any, scene_site: Served) -> None:
    visitor = visit(scene_site.url, **PHONE, color_scheme="dark")
    page = visitor.page
    assert page.locator("#k").is_hidden()
    visitor.choose(view_bytes(SEED, 8, 2))
    assert visitor.keys()[0] == "scenes.tar/scene-08-1.jpg"
    page.locator("ol.grid a").nth(2).tap()
    visitor.settled()
    page.evaluate("window.scrollTo(0, 0)")
    visitor.picture("page-phone")
    assert visitor.said == []


def test_it_is_used_by_keyboard_alone(visit: Any, scene_site: Served) -> None:
    visitor = visit(scene_site.url)
    page = visitor.page
    visitor.choose(view_bytes(SEED, 1, 1))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") != ""
    page.focus("ol.grid a")
    page.keyboard.press("Enter")
    visitor.settled()
    assert page.inner_text("#query-name") == "scenes.tar/scene-01-0.jpg"
    page.focus(".skip")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "results"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault(visit: Any, scene_site: Served, theme: str) -> None:
    if not AXE.exists():
        pytest.skip(f"{AXE} is not there: make test-browser fetches it")
    visitor = visit(scene_site.url, color_scheme=theme, bypass_csp=True)
    page = visitor.page
    page.add_script_tag(path=AXE)

    def faults() -> list[str]:
        found = page.evaluate("axe.run()")["violations"]
        return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]

    assert faults() == []
    visitor.choose(view_bytes(SEED, 3, 2))
    visitor.draw(0.2, 0.2, 0.8, 0.8)
    page.check("#locate")
    visitor.settled()
    if theme == "dark":
        visitor.picture("page-dark")
    assert faults() == []
    page.uncheck("#locate")
    page.select_option("#index", "lsh")
    page.select_option("#rerank", "0")
    page.check("#compare")
    visitor.settled()
    assert faults() == []
    page.fill("#where", "nonsense")
    page.keyboard.press("Enter")
    visitor.settled()
    assert faults() == []


def test_the_documentation_opens_under_its_policy(chromium: Any, scene_site: Served) -> None:
    page = chromium.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.goto(f"{scene_site.url}/docs")
    page.get_by_text("/similar/").first.wait_for()
    page.close()
    assert said == []


def test_a_museum_query_with_a_drawn_box_finds_its_painting(visit: Any, real_data: Path, tmp_path: Path) -> None:
    """Photographs with the wall around the painting, a box drawn around it: the painting comes first."""
    museum = real_data / "museum"
    truth = json.loads((museum / "qsd2_w1_gt.json").read_text())
    weights = str(real_data / "weights" / "mobilenet_v2_imagenet_fp16.pth")
    recipe = RecipeOptions(
        backbone="mobilenet_v2", weights=weights, resize="longest:384", indexes=("flat",), whiten="none"
    )
    run(museum / "BBDD", tmp_path / "root", recipe=recipe, files=300)
    with served(tmp_path / "root") as site:
        visitor = visit(site.url)
        for number in (0, 5, 11):
            visitor.choose((museum / "qsd2_w1" / f"{number:05d}.jpg").read_bytes())
            visitor.draw(0.12, 0.12, 0.88, 0.88)
            assert visitor.keys()[0] == f"bbdd_{truth[number][0]:05d}.jpg"
        assert visitor.said == []
