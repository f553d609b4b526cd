"""A page of the service that is open in Chromium, and what a person does on it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

DESKTOP = {"width": 1280, "height": 860}
SEED = 42
"""Of the scenes that are shown."""


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
