"""Pages: what they allow, that names are text, that colours can be read in both themes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs import page
from jobs.output import printable
from jobs.pictures import GIVE_UP, Picture, Pictures
from pipeline.core.storage import open_store
from pipeline.publish.catalog import Catalog
from pipeline.publish.snapshot import Snapshot
from tests.builders import images, run, tar_bytes, write_files
from tests.pages import checked

NASTY = "</style><script>alert(1)</script><img src=x onerror=alert(2)>\n\u202egpj\x00.exe \"'&amp;"


def themes() -> dict[str, dict[str, str]]:
    """The colours of the style sheet by theme and name."""
    style = (Path(page.__file__).parent / "page.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = [dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", text)) for text in (light, dark)]
    return dict(zip(("light", "dark"), colours, strict=True))


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_lines_stand_out_from_what_is_behind_them(theme: str) -> None:
    colours = themes()[theme]
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for behind in (colours["paper"], colours["card"]):
        for text in ("ink", "soft", "accent"):
            assert contrast(colours[text], behind) >= 4.5, (theme, text)
        for number in range(8):
            assert contrast(colours[f"series{number}"], behind) >= 3, (theme, number)


def test_both_themes_have_every_colour() -> None:
    assert themes()["light"].keys() == themes()["dark"].keys()


def test_names_are_text_and_what_cannot_be_seen_is_shown() -> None:
    text = page.render(
        "duplicates.html",
        snapshot=1,
        threshold=0.9,
        images=2,
        groups=1,
        members=2,
        note=NASTY,
        source=NASTY,
        created_at="2026-01-02T03:04:05+00:00",
        shown=[{"size": 2, "members": [Picture(key=NASTY, data=""), Picture(key="b", data="")]}],
    )
    found = checked(text)
    assert found.text.count(printable(NASTY)) == 3
    assert "\\u202e" in found.text
    assert "\\x00" in found.text
    assert "2026-01-02 03:04:05 UTC" in found.text
    assert [e.attributes["aria-label"] for e in found.of("div") if e.attributes.get("class") == "gone"] == [
        f"{printable(NASTY)}: no picture",
        "b: no picture",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a\\x0ab"),
        ("\u202e", "\\u202e"),
        ("\udc80", "\\udc80"),
        ("\U000e0041", "\\U000e0041"),
        ("\u200d", "\u200d"),
        ("日本 é", "日本 é"),
    ],
)
def test_what_is_not_printable_becomes_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def head_of(root: Path) -> Snapshot:
    return Catalog(open_store(str(root))).require_head()


def test_pictures_come_from_within_tar_shards(tmp_path: Path) -> None:
    source = tmp_path / "src"
    write_files(source, {"a.tar": tar_bytes(images(3))})
    run(source, tmp_path / "root")
    pictures = Pictures(head_of(tmp_path / "root"))
    found = pictures.of("a.tar/0001.jpg", f"{source}/a.tar#0001.jpg", score=0.5, size=(64, 48))
    assert (found.key, found.score, found.width, found.height) == ("a.tar/0001.jpg", 0.5, 64, 48)
    assert len(found.data) > 500
    assert found.bytes == len(images(3)["0001.jpg"])
    assert pictures.note == ""


def test_a_picture_that_is_gone_is_a_placeholder_and_a_note_and_a_dead_source_is_given_up(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", images(20))
    run(source, tmp_path / "root")
    pictures = Pictures(head_of(tmp_path / "root"))
    uris = {name: f"{source}/{name}" for name in images(20)}
    assert pictures.of("0000.jpg", uris["0000.jpg"]).data
    (source / "0001.jpg").unlink()
    (source / "0002.jpg").write_bytes(b"another thing by now")
    assert [pictures.of(name, uris[name]).data for name in ("0001.jpg", "0002.jpg")] == ["", ""]
    assert pictures.note.startswith("2 of 3 pictures could not be had: ")
    for name in list(uris)[3:]:
        (source / name).unlink()
    for name in list(uris)[3 : 3 + GIVE_UP]:
        assert not pictures.of(name, uris[name]).data
    # It is not asked any more, even for what has come back.
    write_files(source, {"0019.jpg": images(20)["0019.jpg"]})
    assert not pictures.of("0019.jpg", uris["0019.jpg"]).data
    # What has been made is still there.
    assert pictures.of("0000.jpg", uris["0000.jpg"]).data


def test_a_source_that_is_gone_gives_no_picture_and_says_why(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", images(2))
    run(source, tmp_path / "root")
    source.rename(tmp_path / "moved")
    pictures = Pictures(head_of(tmp_path / "root"))
    assert not pictures.of("0000.jpg", f"{source}/0000.jpg").data
    assert not pictures.of_reject("0001.jpg", f"{source}/0001.jpg").data
    assert "is no longer there" in pictures.note
