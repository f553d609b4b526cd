"""The page of near-duplicates: bounded, told of, with every name as text."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import cli
from jobs.duplicates import MEMBERS, RECIPE_THRESHOLD, THRESHOLD, DuplicatesOptions, duplicates, lines
from jobs.output import printable
from jobs.progress import Reporter
from jobs.recipe import RecipeOptions
from tests.builders import encoded, images, picture, run, write_files
from tests.pages import Page, checked

NASTY = "<img src=x onerror=alert(1)>\n.jpg"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("duplicates")
    copies = {f"copy-{seed}-{q}.jpg": encoded(picture(seed), "JPEG", quality=q) for seed in (4, 8) for q in (85, 89)}
    many = {f"again-{number:02d}.jpg": encoded(picture(99, 80, 60), "JPEG", quality=90) for number in range(30)}
    nasty = {NASTY: encoded(picture(99, 80, 60), "JPEG", quality=89)}
    run(write_files(folder / "src", {**images(12), **copies, **many, **nasty}), folder / "root", files=12)
    return folder / "root"


def paged(root: Path, out: Path, **more: object) -> tuple[dict[str, object], Page]:
    options = DuplicatesOptions(root=str(root), page=str(out), threshold=0.998, **more)  # type: ignore[arg-type]
    told = duplicates(options, Reporter(io.StringIO()))
    assert told["page"] == {"out": str(out), "bytes": out.stat().st_size}
    return told, checked(out.read_text(encoding="utf-8"))


def test_groups_are_shown_largest_first_with_sizes_and_similarities(root: Path, tmp_path: Path) -> None:
    told, page = paged(root, tmp_path / "page.html")
    assert (told["groups"], told["members"]) == (3, 37)
    assert [heading.text for heading in page.of("h2")] == [
        "Group 1: 31 images",
        "Group 2: 3 images",
        "Group 3: 3 images",
    ]
    assert f"and {31 - MEMBERS} more" in page.words
    assert len(page.of("img")) == MEMBERS + 6
    assert set(page.pictures) == {(80, 60), (64, 48)}
    assert printable(NASTY) in page.text
    second = page.words[page.words.index("Group 2") : page.words.index("Group 3")]
    assert "1.000 · 64 × 48 · " in second
    for name in ("0004.jpg", "copy-4-85.jpg", "copy-4-89.jpg"):
        assert name in second


def test_a_bound_is_said_beside_how_many_there_are(root: Path, tmp_path: Path) -> None:
    told, page = paged(root, tmp_path / "page.html", shown=1)
    assert told["groups"] == 3
    assert len(page.of("h2")) == 1
    assert "The largest are shown, 1 of 3." in page.words
    assert f"page: {tmp_path / 'page.html'}" in lines(told)


def test_no_groups_have_a_page_too(tmp_path: Path) -> None:
    run(write_files(tmp_path / "src", images(3)), tmp_path / "root")
    told = duplicates(
        DuplicatesOptions(root=str(tmp_path / "root"), threshold=1.0, page=str(tmp_path / "page.html")),
        Reporter(io.StringIO()),
    )
    assert told["groups"] == 0
    assert "No two images are so much alike." in checked((tmp_path / "page.html").read_text()).words


def test_the_command_takes_a_page_and_escapes_names_on_the_terminal(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert cli.run(["duplicates", str(root), "--threshold", "0.998", "--page", str(page), "--shown", "2"]) == 0
    out = capsys.readouterr().out
    assert "3 groups of 37 images" in out
    assert len(out.splitlines()) == 5, "a name with a line break takes one line"
    assert cli.run(["duplicates", str(root), "--threshold", "0.998", "--json"]) == 0
    assert "page" not in json.loads(capsys.readouterr().out)


def test_a_root_made_by_another_recipe_is_named(root: Path) -> None:
    said = io.StringIO()
    data = duplicates(DuplicatesOptions(root=str(root)), Reporter(said))
    assert data["threshold"] == THRESHOLD
    note = (
        "this ROOT was not made by --recipe duplicates but by gem of squeezenet1_1 (random:0), longest:64: "
        "copies of another size, mirrored or cropped may be missed"
    )
    assert data["recipe_note"] == note
    assert f"note: {note}" in said.getvalue()


def test_the_help_names_the_recipe_and_its_threshold(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["duplicates", "--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--recipe duplicates" in said
    assert f"{RECIPE_THRESHOLD} if" in said


def test_copies_of_another_size_are_linked_by_the_recipe_for_duplicates(real_data: Path, tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for path in sorted((real_data / "museum" / "BBDD").glob("*.jpg"))[:60]:
        half = Image.open(path).convert("RGB")
        half = half.resize((half.width // 2, half.height // 2))
        files |= {path.name: path.read_bytes(), f"half-{path.name}": encoded(half, "JPEG", quality=90)}
    weights = str(real_data / "weights" / "mobilenet_v2_imagenet_fp16.pth")
    root = tmp_path / "root"
    run(
        write_files(tmp_path / "src", files),
        root,
        recipe=RecipeOptions(recipe="duplicates", weights=weights, dims=48),
        files=120,
    )
    out = tmp_path / "groups.parquet"
    data = duplicates(DuplicatesOptions(root=str(root), out=str(out)), Reporter(io.StringIO()))
    assert (data["threshold"], data["recipe_note"]) == (RECIPE_THRESHOLD, "")
    groups: dict[int, set[str]] = {}
    for row in pq.read_table(out).to_pylist():
        groups.setdefault(row["group"], set()).add(row["key"].removeprefix("half-"))
    assert all(len(originals) == 1 for originals in groups.values()), "different paintings are not linked"
    assert len(groups) >= 57
