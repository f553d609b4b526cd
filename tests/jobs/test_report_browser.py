"""The report in a real Chromium: nothing is refused by its own policy, nothing overflows, both themes take effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs import report_samples
from tests.builders import QUICK, images, run, write_files
from tests.jobs.test_report import NASTY, written

pytestmark = pytest.mark.browser

BACKGROUNDS = {"light": "rgb(247, 246, 242)", "dark": "rgb(21, 24, 27)"}


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    long = {f"{'long-name-' * 20}.jpg": images(1)["0000.jpg"]}
    run(write_files(folder / "src", {**images(40), **NASTY, **long}), folder / "root", recipe=QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_samples, "SECONDS", 0.0)
        written(folder / "root", folder / "report.html", samples=46)
    return folder / "report.html"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1280, 2400])
def test_the_page_fits_and_asks_nobody(chromium: Any, page_file: Path, width: int, theme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    said: list[str] = []
    asked: list[str] = []
    try:
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto(page_file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == BACKGROUNDS[theme]
        # A class of the style sheet reaches into the plots.
        filled = page.evaluate("getComputedStyle(document.querySelector('svg .fill-series0')).fill")
        assert filled == {"light": "rgb(11, 106, 162)", "dark": "rgb(108, 182, 238)"}[theme]
        page.evaluate("for (const image of document.images) image.loading = 'eager'")
        page.wait_for_function("[...document.images].every(image => image.complete)")
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    finally:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
