"""The page in a real Chromium: what a person does with it, on generated scenes, and on a museum's photographs.

SIGHTLINE_PICTURES names a folder to which screenshots are written.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.recipe import RecipeOptions
from jobs.scene_views import view_bytes
from tests.builders import run, tar_bytes, write_files
from tests.serve.served import CALM, Served, served

pytestmark = pytest.mark.browser

AXE = Path("build/npm/node_modules/axe-core/axe.min.js")
SEED, SCENES, VIEWS = 42, 14, 4
DESKTOP = {"width": 1280, "height": 860}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes in a tar, with their numbers as metadata; described by real weights where there are any."""
    folder = tmp_path_factory.mktemp("browser")
    members: dict[str, bytes] = {}
    for scene in range(SCENES):
        for view in range(VIEWS):
            name = f"scene-{scene:02d}-{view}"
            members[f"{name}.jpg"] = view_bytes(SEED, scene, view + 1)
            members[f"{name}.json"] = json.dumps({"scene": scene, "view": view}).encode()
    members["<b onmouseover=alert(1)>naughty</b>\u202e.jpg"] = view_bytes(SEED, 99, 1)
    source = write_files(folder / "src", {"scenes.tar": tar_bytes(members)})
    real = os.environ.get("SIGHTLINE_REAL_DATA", "")
    weights = f"{real}/weights/mobilenet_v2_imagenet_fp16.pth" if real else "random:0"
    recipe = RecipeOptions(
        backbone="mobilenet_v2" if real else "squeezenet1_1",
        weights=weights,
        resize="longest:256",
        indexes=("flat", "lsh"),
        # What a random network makes is all alike until it is whitened.
        whiten="none" if real else "pca",
        dims=None if real else 24,
        metadata="scene:int64,view:int64",
    )
    run(source, folder / "root", recipe=recipe)
    return folder / "root"


@pytest.fixture(scope="module")
def site(root: Path) -> Iterator[Served]:
    with served(root) as site:
        yield site


class Visitor:
    """A page that is open, and everything it complained of."""

    def __init__(self, chromium: Any, url: str, *, token: str = "", **settings: Any) -> None:
        self.context = chromium.new_context(**({"viewport": DESKTOP} | settings))
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.said.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)
        if token:
            self.page.fill("#token", token)
            self.page.keyboard.press("Enter")
        self.page.wait_for_selector("#index option", state="attached")

    def choose(self, data: bytes, name: str = "query.jpg") -> None:
        self.page.set_input_files("#file", {"name": name, "mimeType": "image/jpeg", "buffer": data})
        self.settled()

    def settled(self) -> None:
        self.until("!document.body.classList.contains('busy') && [...document.images].every(i => !i.src || i.complete)")

    def until(self, expression: str, seconds: float = 30) -> None:
        """Wait for an expression to be true; asked from outside, since the page's policy forbids its own evaluation."""
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.02)

    def keys(self, place: int = 0) -> list[str]:
        found: list[str] = (
            self.page.locator("ol.grid")
            .nth(place)
            .locator("a")
            .evaluate_all("links => links.map(link => link.dataset.key)")
        )
        return found

    def draw(self, left: float, top: float, right: float, bottom: float) -> None:
        """Draw a box, in shares of the picture."""
        area = self.page.locator("#query-image").bounding_box()
        x, y, w, h = area["x"], area["y"], area["width"], area["height"]
        self.page.mouse.move(x + left * w, y + top * h)
        self.page.mouse.down()
        self.page.mouse.move(x + right * w, y + bottom * h, steps=4)
        self.page.mouse.up()
        self.settled()

    def picture(self, name: str) -> None:
        folder = os.environ.get("SIGHTLINE_PICTURES", "")
        if folder:
            self.page.screenshot(path=Path(folder) / f"{name}.jpg", type="jpeg", quality=78)


@pytest.fixture
def visit(chromium: Any) -> Iterator[Any]:
    visitors: list[Visitor] = []

    def open_page(url: str, **settings: Any) -> Visitor:
        visitors.append(Visitor(chromium, url, **settings))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        visitor.context.close()


def test_a_picture_is_searched_with_and_a_result_searched_with_in_turn(visit: Any, site: Served) -> None:
    visitor = visit(site.url)
    page = visitor.page
    visitor.choose(view_bytes(SEED, 3, 2))
    assert visitor.keys()[0] == "scenes.tar/scene-03-1.jpg"
    assert len(visitor.keys()) == 24
    assert "24 results of snapshot 1 by flat" in page.inner_text("#status")
    visitor.picture("page-desktop")
    second = visitor.keys()[1]
    page.locator("ol.grid a").nth(1).click()
    visitor.settled()
    assert page.inner_text("#query-name") == second
    assert second not in visitor.keys()
    # The address says all of it, and going back does too.
    again = visit(page.url)
    again.settled()
    assert again.keys() == visitor.keys()
    page.locator("ol.grid a").nth(0).click()
    visitor.settled()
    page.go_back()
    visitor.settled()
    assert page.inner_text("#query-name") == second
    assert visitor.said == []
    assert all(url.startswith((site.url, "blob:")) for url in visitor.asked)


def test_a_box_is_drawn_moved_typed_and_taken_away(visit: Any, site: Served) -> None:
    visitor = visit(site.url)
    page = visitor.page
    visitor.choose(view_bytes(SEED, 5, 1))
    whole = page.inner_text("ol.grid a .caption")
    visitor.draw(0.25, 0.25, 0.75, 0.9)
    size = page.evaluate(
        "[document.querySelector('#query-image').naturalWidth, document.querySelector('#query-image').naturalHeight]"
    )
    box = [int(page.input_value(f"#box-{side}")) for side in "xywh"]
    assert box == pytest.approx([size[0] / 4, size[1] / 4, size[0] / 2, 0.65 * size[1]], abs=4)
    assert page.inner_text("ol.grid a .caption") != whole
    assert f"box={'%2C'.join(map(str, box))}" in page.url
    page.focus("#box")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    visitor.settled()
    step = max(1, round(size[0] / 50))
    moved = [int(page.input_value(f"#box-{side}")) for side in "xywh"]
    assert moved == [box[0] + step, box[1], box[2], box[3] + step]
    page.keyboard.press("Delete")
    visitor.settled()
    assert page.locator("#box").is_hidden()
    assert page.inner_text("ol.grid a .caption") == whole
    page.click("#box-new")
    visitor.settled()
    page.click("summary:has-text('Box in pixels')")
    page.fill("#box-w", "20")
    page.keyboard.press("Tab")
    visitor.settled()
    assert page.input_value("#box-w") == "20"
    assert visitor.said == []


def test_objects_are_outlined_filters_apply_and_approximate_meets_exact(visit: Any, site: Served) -> None:
    visitor = visit(site.url)
    page = visitor.page
    page.fill("#k", "8")
    visitor.choose(view_bytes(SEED, 7, 1))
    page.check("#locate")
    visitor.settled()
    assert page.locator(".found").count() == 8
    for box in page.locator(".found").evaluate_all(
        "all => all.map(({offsetWidth: w, offsetHeight: h, parentElement: p}) => [w, h, p.clientWidth, p.clientHeight])"
    ):
        assert 0 < box[0] <= box[2] + 2
        assert 0 < box[1] <= box[3] + 2
    visitor.picture("page-outlined")
    page.uncheck("#locate")
    page.fill("#where", "view = 2 and scene < 9")
    page.keyboard.press("Enter")
    visitor.settled()
    assert visitor.keys()
    assert all(key.endswith("-2.jpg") and int(key[17:19]) < 9 for key in visitor.keys())
    assert f"scene {int(visitor.keys()[0][17:19])}, view 2" in page.inner_text("ol.grid a .caption .more")
    page.fill("#where", "author = 'x'")
    page.keyboard.press("Enter")
    visitor.settled()
    assert "author" in page.inner_text("#error")
    page.fill("#where", "")
    page.select_option("#index", "lsh")
    page.select_option("#rerank", "0")
    page.check("#compare")
    visitor.settled()
    assert page.locator("ol.grid").count() == 2
    missed = set(visitor.keys(1)) - set(visitor.keys(0))
    share = f"{100 * (8 - len(missed)) / 8:.0f}"
    assert f"finds {share} % of what flat finds" in page.inner_text("#status")
    assert page.locator("li.only").count() == 2 * len(missed)
    visitor.picture("page-compare")
    assert [text for text in visitor.said if "400" not in text] == []


def test_what_goes_wrong_is_said_clearly(visit: Any, root: Path) -> None:
    with served(root, limits=replace(CALM, body_bytes=50_000)) as site:
        wrong_ways(visit(site.url), site)


def wrong_ways(visitor: Visitor, site: Served) -> None:
    page = visitor.page
    page.click("#go")
    assert page.inner_text("#error") == "choose a picture first"
    page.set_input_files("#file", {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": b"no image"})
    visitor.settled()
    assert "not an image of an allowed format" in page.inner_text("#error")
    page.set_input_files("#file", {"name": "x.txt", "mimeType": "text/plain", "buffer": b"words"})
    assert page.inner_text("#error") == "x.txt is no picture"
    page.set_input_files("#file", {"name": "big.jpg", "mimeType": "image/jpeg", "buffer": bytes(60_000)})
    assert "make it smaller" in page.inner_text("#error")
    page.goto(f"{site.url}/?key=nothing")
    page.wait_for_selector("#error:not([hidden])")
    assert "is no image of snapshot 1" in page.inner_text("#error")
    page.goto(f"{site.url}/?k=5#image=AAAA")
    page.wait_for_selector("#error:not([hidden])")
    assert "cut short" in page.inner_text("#error")


def test_a_link_takes_an_uploaded_picture_along(visit: Any, site: Served) -> None:
    visitor = visit(site.url, permissions=["clipboard-read", "clipboard-write"])
    visitor.choose(view_bytes(SEED, 6, 3))
    visitor.draw(0.1, 0.1, 0.9, 0.9)
    visitor.page.click("#share")
    visitor.until("document.querySelector('#status').textContent.includes('copied')")
    link = visitor.page.evaluate("navigator.clipboard.readText()")
    assert len(link) < 60_000
    other = visit(link)
    other.page.wait_for_selector("ol.grid a")
    other.settled()
    assert len(other.keys()) == len(visitor.keys())
    if os.environ.get("SIGHTLINE_REAL_DATA"):
        # The copy is smaller than the picture was, which random weights do not see through.
        assert other.keys()[0] == visitor.keys()[0] == "scenes.tar/scene-06-2.jpg"
    assert not other.page.locator("#box").is_hidden()


def test_pictures_are_pasted_and_dropped(visit: Any, site: Served) -> None:
    visitor = visit(site.url)
    give = """async ([data, how]) => {
        const bytes = Uint8Array.from(atob(data), one => one.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], 'given.jpg', {type: 'image/jpeg'}));
        const event = how === 'paste' ? new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true})
            : new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true});
        document.body.dispatchEvent(event);
    }"""
    for how, scene in (("paste", 1), ("drop", 2)):
        data = base64.b64encode(view_bytes(SEED, scene, 1)).decode()
        visitor.page.evaluate(give, [data, how])
        word = "pasted" if how == "paste" else "given"
        visitor.until(f"document.querySelector('#query-name').textContent.includes('{word}')")
        visitor.settled()
        assert visitor.keys()[0] == f"scenes.tar/scene-{scene:02d}-0.jpg"


def test_names_are_text_and_never_markup(visit: Any, site: Served) -> None:
    visitor = visit(
        f"{site.url}/?key={'scenes.tar%2F%3Cb%20onmouseover%3Dalert(1)%3Enaughty%3C%2Fb%3E%E2%80%AE.jpg'}&k=5"
    )
    visitor.page.wait_for_selector("ol.grid a")
    visitor.choose(view_bytes(SEED, 99, 1))
    assert "naughty" in visitor.keys()[0]
    assert visitor.page.locator("main b[onmouseover]").count() == 0
    assert "<b onmouseover=alert(1)>" in visitor.page.inner_text("ol.grid a .key")
    visitor.page.locator("ol.grid a").first.hover()
    assert visitor.said == []


def test_a_token_is_asked_for_once(visit: Any, root: Path) -> None:
    with served(root, token="a-long-enough-token") as site:
        visitor = visit(site.url, token="a-long-enough-token")
        visitor.choose(view_bytes(SEED, 4, 1))
        assert visitor.keys()[0] == "scenes.tar/scene-04-0.jpg"
        visitor.until("[...document.querySelectorAll('ol.grid img')].every(image => image.naturalWidth > 0)")
        assert all("token" not in url for url in visitor.asked)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 800, 1280, 2200])
def test_nothing_overflows_at_any_width(visit: Any, site: Served, width: int, theme: str) -> None:
    visitor = visit(site.url, viewport={"width": width, "height": 800}, color_scheme=theme)
    visitor.choose(view_bytes(SEED, 2, 1))
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width
    rows = visitor.page.locator("ol.grid li").evaluate_all(
        "all => all.map(one => [one.offsetTop, one.offsetLeft + one.offsetWidth])"
    )
    area = visitor.page.evaluate("(list => list.offsetLeft + list.offsetWidth)(document.querySelector('ol.grid'))")
    ends = [max(right for top, right in rows if top == row) for row in sorted({top for top, _ in rows})]
    # Every row but the last is as wide as the list.
    assert all(area - 4 <= end <= area + 1 for end in ends[:-1]), (ends, area)


def test_it_works_by_touch_on_a_phone(visit: Any, site: Served) -> None:
    visitor = visit(site.url, **PHONE, color_scheme="dark")
    page = visitor.page
    assert page.locator("#k").is_hidden()
    visitor.choose(view_bytes(SEED, 8, 2))
    assert visitor.keys()[0] == "scenes.tar/scene-08-1.jpg"
    page.locator("ol.grid a").nth(2).tap()
    visitor.settled()
    page.evaluate("window.scrollTo(0, 0)")
    visitor.picture("page-phone")
    assert visitor.said == []


def test_it_is_used_by_keyboard_alone(visit: Any, site: Served) -> None:
    visitor = visit(site.url)
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
def test_axe_finds_no_serious_fault(visit: Any, site: Served, theme: str) -> None:
    if not AXE.exists():
        pytest.skip(f"{AXE} is not there: make test-browser fetches it")
    visitor = visit(site.url, color_scheme=theme, bypass_csp=True)
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


def test_the_documentation_opens_under_its_policy(chromium: Any, site: Served) -> None:
    page = chromium.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.goto(f"{site.url}/docs")
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
