"""The report: it says what is there, whatever the ROOT holds, and its page can be given to anyone."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import cli, report_samples
from jobs.delete import EditOptions, delete
from jobs.output import printable
from jobs.progress import Reporter
from jobs.recipe import RecipeOptions
from jobs.report import ReportOptions, lines, report
from pipeline.core.errors import UserError
from pipeline.evaluate import health
from pipeline.search.engine import SearchIndex
from tests.builders import QUICK, encoded, images, jpeg, picture, run, write_files
from tests.pages import Page, checked

ALL = RecipeOptions(**{**vars(QUICK), "indexes": ("flat", "ivfpq")})
NASTY = {
    "<img src=x onerror=alert(1)>.jpg": jpeg(101),
    "q\"uote & 'amp;.jpg": jpeg(102),
    "line\nbreak.jpg": jpeg(103),
    "\u05e9\u05dc\u05d5\u05dd\u202egpj.exe.jpg": jpeg(104),
    "{{ page }}.jpg": jpeg(105),
}
BROKEN = {"<script>broken.jpg": b"not an image", "cut.jpg": jpeg(3)[:400]}


Told = tuple[dict[str, Any], Page]


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Time few settings, each by its least number of queries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_samples, "SECONDS", 0.0)
        patch.setattr(report_samples, "STEPS", (1, 4))
        yield


def written(root: Path, out: Path, **more: Any) -> Told:
    told = report(ReportOptions(root=str(root), out=str(out), **more), Reporter(io.StringIO()))
    page = checked(out.read_text(encoding="utf-8"))
    json.dumps(told)
    assert told["bytes"] == out.stat().st_size
    return told, page


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    copies = {"copy.jpg": encoded(picture(4), "JPEG", quality=89)}
    source = write_files(folder / "src", {**images(40), **copies, **NASTY, **BROKEN})
    run(source, folder / "root", recipe=ALL, files=12)
    write_files(source, images(4, start=40))
    run(source, folder / "root", recipe=ALL, files=12)
    return folder / "root"


@pytest.fixture(scope="module")
def story(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """A report with every image as a query."""
    return written(root, tmp_path_factory.mktemp("page") / "report.html", samples=50)


def test_the_page_says_what_is_indexed_and_how(story: Told) -> None:
    told, page = story
    assert (told["snapshot"], told["images"], told["seen"], told["rejected"]) == (2, 50, 52, 2)
    assert told["left_out"] == {}
    assert "50 images, snapshot 2" in page.of("h1")[0].text
    for phrase in ("gem of squeezenet1_1", "resize longest:64", "Whitening none", "the weights are random (random:0)"):
        assert phrase in page.words
    headings = [heading.text for heading in page.of("h2")]
    assert headings == [
        "What is indexed",
        "Runs",
        "Health of the descriptors",
        "Health of the indexes",
        "Recall and latency",
        "Sample queries",
        "History",
    ]
    assert len(page.of("svg")) == 8
    assert all(max(size) <= 64 for size in page.pictures)


def test_every_name_is_text(story: Told) -> None:
    _, page = story
    for name in (*NASTY, *BROKEN):
        assert printable(name) in page.text
    assert "\u202e" not in page.text
    alternatives = {picture.attributes["alt"] for picture in page.of("img")}
    assert {f"query {printable(name)}" for name in NASTY} <= alternatives


def test_rejects_are_told_by_reason(story: Told) -> None:
    _, page = story
    assert "not an image of an allowed format 1 <script>broken.jpg" in page.words
    assert "truncated 1 cut.jpg" in page.words


def test_the_numbers_are_those_of_the_stored_vectors(root: Path, story: Told) -> None:
    told, page = story
    with SearchIndex.open(str(root)) as index:
        live = index.live()
        vectors = index.stored.vectors(live.file, live.row)
    found = told["health"]
    values = np.sort(np.linalg.eigvalsh(np.cov(vectors.astype(np.float64).T)))[::-1]
    assert found["vectors"] == 50
    assert found["effective"] == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-4)
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(cosines, -1)
    times = np.bincount(np.argsort(-cosines, axis=1)[:, :10].reshape(-1), minlength=50)
    assert found["never"] == pytest.approx((times == 0).mean(), abs=0.041)
    assert found["skewness"] == pytest.approx(health.skewness(times), abs=0.2)
    assert f"{found['effective']:.1f}" in page.words
    recall = told["recall"]
    assert [row["recall"] for row in recall if row["index"] == "flat"] == [1.0]
    assert {(row["index"], row["rerank"]) for row in recall} == {("flat", 0), ("ivfpq", 0), ("ivfpq", 100)}
    assert told["duplicates"]["members"] >= 2
    assert "effective dimension" in lines(told)[1]


def test_runs_and_history_are_told_newest_first(story: Told) -> None:
    _, page = story
    assert "Images of snapshots 1 to 2: 46 to 50" in page.text
    assert page.words.index("2 20") < page.words.index("1 20")
    runs = page.words[page.words.index("The last runs, the newest first") :]
    assert runs.index("2 index") < runs.index("1 index")
    assert "device" in runs
    assert "cpu" in runs


def test_queries_may_come_from_a_folder(root: Path, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "asked", {"mine.jpg": jpeg(7), "yours.jpg": jpeg(9)})
    _, page = written(root, tmp_path / "report.html", queries=str(folder))
    asked = page.words[page.words.index("Sample queries") :]
    assert "query mine.jpg 1.000 0007.jpg" in asked
    assert "query yours.jpg" in asked
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        written(root, tmp_path / "report.html", queries=str(tmp_path / "none"))


def test_a_query_of_the_collection_is_no_result_of_its_own(story: Told) -> None:
    _, page = story
    alternatives = [picture.attributes["alt"] for picture in page.of("img")]
    starts = [place for place, alt in enumerate(alternatives) if alt.startswith("query ")]
    assert len(starts) == 50
    for start, end in zip(starts, [*starts[1:], len(alternatives)], strict=True):
        own = alternatives[start].removeprefix("query ")
        found = [alt.partition(": ")[2] for alt in alternatives[start + 1 : end]]
        assert len(found) == report_samples.HITS
        assert own not in found


def test_a_source_that_is_gone_costs_its_pictures_alone(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", images(34))
    run(source, tmp_path / "root")
    source.rename(tmp_path / "moved")
    told, page = written(tmp_path / "root", tmp_path / "report.html", samples=2)
    assert told["left_out"] == {}
    assert not page.of("img")
    assert page.words.count("no picture") >= 14
    assert "pictures could not be had: " in page.words


def test_an_empty_snapshot_has_a_report(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", images(2))
    run(source, tmp_path / "root", recipe=ALL)
    for name in images(2):
        (source / name).unlink()
    run(source, tmp_path / "root", allow_empty=True)
    told, page = written(tmp_path / "root", tmp_path / "report.html")
    assert told["images"] == 0
    assert set(told["left_out"]) == {"health", "duplicates", "curves", "asked"}
    assert page.words.count("Left out: the snapshot holds no images.") == 4
    assert "0 images, snapshot 2" in page.of("h1")[0].text


@pytest.mark.parametrize("count", [1, 12, 33])
def test_few_images_have_a_report(tmp_path: Path, count: int) -> None:
    run(write_files(tmp_path / "src", images(count)), tmp_path / "root", recipe=ALL)
    told, page = written(tmp_path / "root", tmp_path / "report.html")
    assert ("health" in told["left_out"]) == (count < report_samples.LEAST)
    assert ("curves" in told["left_out"]) == (count < 2)
    assert page.words.count("query 0") == min(count, 8)


def test_one_picture_over_and_over_has_a_report(tmp_path: Path) -> None:
    run(write_files(tmp_path / "src", {f"{i}.jpg": jpeg(1) for i in range(40)}), tmp_path / "root", recipe=ALL)
    told, page = written(tmp_path / "root", tmp_path / "report.html", samples=1)
    assert told["duplicates"] == {"groups": 1, "members": 40}
    assert "and 34 more" in page.words
    found = told["health"]
    assert found["effective"] <= 1.01
    assert found["cosine"] == pytest.approx(1, abs=1e-3)


def test_large_collections_leave_out_what_would_read_all_of_them(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_samples, "GROUPED", 49)
    monkeypatch.setattr(report_samples, "SWEPT", 49)
    monkeypatch.setattr(report_samples, "VECTORS", 40)
    monkeypatch.setattr(report_samples, "NEIGHBOURED", 35)
    told, page = written(root, tmp_path / "report.html", samples=1)
    assert set(told["left_out"]) == {"duplicates", "curves"}
    assert "sightline duplicates ROOT --page duplicates.html looks at all 50." in page.words
    assert "From 40 stored vectors, drawn by a seed; neighbours among 35 of them." in page.words


def test_the_command_prints_where_the_page_is(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "page.html"
    assert cli.run(["report", str(root), "--out", str(out), "--samples", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["snapshot"], told["out"]) == (2, str(out))
    checked(out.read_text(encoding="utf-8"))
    assert cli.run(["report", str(root), "--out", str(out), "--samples", "0"]) == 0
    assert capsys.readouterr().out.startswith(f"report on snapshot 2, 50 images: {out} (")
    assert "Sample queries Left out, as asked for." in checked(out.read_text(encoding="utf-8")).words
    assert cli.run(["report", str(tmp_path / "nothing"), "--out", str(out)]) == 2
    assert "has no snapshot" in capsys.readouterr().err


def test_what_is_deleted_is_not_shown(tmp_path: Path) -> None:
    run(write_files(tmp_path / "src", images(36)), tmp_path / "root", files=12)
    delete(EditOptions(root=str(tmp_path / "root"), keys=("0005.jpg",)))
    told, page = written(tmp_path / "root", tmp_path / "report.html", samples=36)
    found = told["health"]
    assert found["vectors"] == 35
    assert "0005.jpg" not in page.text
    assert "Deleted by name 1 images" in page.words
