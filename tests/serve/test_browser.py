"""The page in a real Chromium: what a person does with it, on generated scenes."""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.scene_views import view_bytes
from tests.serve.served import CALM, Served, served
from tests.serve.visitor import SEED, Visitor

pytestmark = pytest.mark.browser


def test_a_picture_is_searched_with_and_a_result_searched_with_in_turn(visit: Any, scene_site: Served) -> None:
    visitor = visit(scene_site.url)
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
    assert all(url.startswith((scene_site.url, "blob:")) for url in visitor.asked)


def test_a_box_is_drawn_moved_typed_and_taken_away(visit: Any, scene_site: Served) -> None:
    visitor = visit(scene_site.url)
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


def test_objects_are_outlined_filters_apply_and_approximate_meets_exact(visit: Any, scene_site: Served) -> None:
    visitor = visit(scene_site.url)
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


def test_what_goes_wrong_is_said_clearly(visit: Any, scenes: Path) -> None:
    with served(scenes, limits=replace(CALM, body_bytes=50_000)) as site:
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


def test_a_link_takes_an_uploaded_picture_along(visit: Any, scene_site: Served) -> None:
    visitor = visit(scene_site.url, permissions=["clipboard-read", "clipboard-write"])
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


def test_pictures_are_pasted_and_dropped(visit: Any, scene_site: Served) -> None:
    visitor = visit(scene_site.url)
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


def test_names_are_text_and_never_markup(visit: Any, scene_site: Served) -> None:
    visitor = visit(
        f"{scene_site.url}/?key={'scenes.tar%2F%3Cb%20onmouseover%3Dalert(1)%3Enaughty%3C%2Fb%3E%E2%80%AE.jpg'}&k=5"
    )
    visitor.page.wait_for_selector("ol.grid a")
    visitor.choose(view_bytes(SEED, 99, 1))
    assert "naughty" in visitor.keys()[0]
    assert visitor.page.locator("main b[onmouseover]").count() == 0
    assert "<b onmouseover=alert(1)>" in visitor.page.inner_text("ol.grid a .key")
    visitor.page.locator("ol.grid a").first.hover()
    assert visitor.said == []


def test_a_token_is_asked_for_once(visit: Any, scenes: Path) -> None:
    with served(scenes, token="a-long-enough-token") as site:
        visitor = visit(site.url, token="a-long-enough-token")
        visitor.choose(view_bytes(SEED, 4, 1))
        assert visitor.keys()[0] == "scenes.tar/scene-04-0.jpg"
        visitor.until("[...document.querySelectorAll('ol.grid img')].every(image => image.naturalWidth > 0)")
        assert all("token" not in url for url in visitor.asked)
