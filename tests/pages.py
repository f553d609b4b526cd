"""What every page of ours promises, checked with a parser of the standard library."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise

from PIL import Image

VOID = {"meta", "img", "br", "link", "input", "hr"}
FORBIDDEN = {"script", "iframe", "object", "embed", "form", "base", "link", "audio", "video", "foreignobject"}
INLINE = {"a", "b", "code", "span", "strong"}
ADDRESSES = ("src", "href", "xlink:href", "action", "data", "poster", "srcset", "background")


@dataclass
class Element:
    """An element's attributes, and the text in it."""

    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """A page taken apart: elements in order, and all of its text as a reader sees it."""

    source: str
    elements: list[Element] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[Element] = []
        self.feed(self.source)
        self.close()
        assert not self._open, f"<{self._open[-1].tag}> is never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        assert len(element.attributes) == len(attrs), f"<{tag}> repeats an attribute"
        self.elements.append(element)
        self.text += "" if tag in INLINE else " "
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        opened = self._open.pop()
        assert opened.tag == tag, f"</{tag}> where <{opened.tag}> is open"

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data
        if not any(element.tag == "style" for element in self._open):
            self.text += data

    def of(self, *tags: str) -> list[Element]:
        """The elements of some tags, in order."""
        return [element for element in self.elements if element.tag in tags]

    @property
    def words(self) -> str:
        """The text with runs of space as one."""
        return " ".join(self.text.split())

    @property
    def pictures(self) -> list[tuple[int, int]]:
        """The sizes of the pictures, each of which is decoded."""
        sizes = []
        for image in self.of("img"):
            with Image.open(io.BytesIO(base64.b64decode(image.attributes["src"].partition(",")[2]))) as opened:
                opened.load()
                sizes.append(opened.size)
        return sizes


def checked(source: str) -> Page:
    """Take a page apart; it must hold everything itself, run nothing, and be readable without eyes."""
    page = Page(source)
    tags = {element.tag for element in page.elements}
    assert not tags & FORBIDDEN
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids)), "ids are repeated"
    for element in page.elements:
        assert not [name for name in element.attributes if name.startswith("on") or name == "style"], element
        for name in ADDRESSES:
            address = element.attributes.get(name, "#")
            assert address.startswith(("#", "data:image/jpeg;base64,")), address
            assert not address.startswith("#") or address == "#" or address[1:] in ids, f"{address} leads nowhere"
        for value in element.attributes.values():
            assert all(name in ids for name in re.findall(r"url\(#([^)]*)\)", value))
            assert "url(" not in value.replace("url(#", ""), value
    for picture in page.of("img"):
        assert picture.attributes["alt"].strip()
    for drawing in page.of("svg"):
        assert drawing.attributes["role"] == "img"
        assert drawing.attributes["aria-labelledby"] in ids
    levels = [int(heading.tag[1]) for heading in page.of("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1 == levels.count(1)
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    assert all(header.attributes.get("scope") in ("col", "row") for header in page.of("th"))
    assert len(page.of("table")) == len(page.of("caption"))
    assert page.of("html")[0].attributes["lang"] == "en"
    _policy(page)
    return page


def _policy(page: Page) -> None:
    (style,) = page.of("style")
    (meta,) = [m for m in page.of("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in meta.attributes["content"].split(";"))
    digest = base64.b64encode(hashlib.sha256(style.text.encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert "@import" not in style.text
    assert "url(" not in style.text
