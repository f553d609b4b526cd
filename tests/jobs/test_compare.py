"""Two snapshots by the same queries: whether they really differ."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from jobs import cli
from jobs.compare import compare, lines, version_of
from jobs.evaluate import EvaluateOptions, evaluate
from jobs.progress import Reporter
from jobs.recipe import RecipeOptions
from jobs.rollback import TagOptions, tag
from pipeline.core.errors import UserError
from tests.builders import QUICK, images, jpeg, run, write_files
from tests.evaluate.roots import clustered, published

NAMES = [f"class-{n % 8}/{n:03d}.jpg" for n in range(80)]


def told(first: str, second: str, **options: Any) -> dict[str, Any]:
    return compare(EvaluateOptions(**options), first, second, Reporter(io.StringIO()), resamples=2000)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Snapshot 1: vectors that tell classes apart badly; 2: well; 3: the same and some images more."""
    folder = tmp_path_factory.mktemp("compare")
    x, _ = clustered(80, 12, 8)
    noise, _ = clustered(80, 12, 80, seed=5)
    published(folder, x + noise, NAMES)
    published(folder, x, NAMES)
    more, _ = clustered(88, 12, 8)
    return published(folder, more, [*NAMES, *(f"class-{n % 8}/{n:03d}.jpg" for n in range(80, 88))])


def test_a_better_snapshot_is_told_from_chance(root: Path) -> None:
    found = told("1", "v2", root=str(root), classes=True)
    one, two = (
        evaluate(EvaluateOptions(root=str(root), classes=True, version=version), Reporter(io.StringIO()))["mAP"]
        for version in (1, 2)
    )
    scores = found["mAP"]
    assert (scores["first"], scores["second"]) == (pytest.approx(one), pytest.approx(two))
    assert scores["difference"] == pytest.approx(two - one)
    assert scores["differ"]
    assert scores["interval"][0] > 0
    assert scores["p"] < 0.01
    assert "snapshot 2 is better than 1, beyond chance" in scores["says"]
    assert (found["snapshots"], found["queries"], found["index"]) == ([1, 2], 80, ["flat", "flat"])
    differences = [value["difference"] for value in found["per_query"].values()]
    assert sum(differences) / 80 == pytest.approx(scores["difference"])
    assert scores["better"] == sum(difference > 0 for difference in differences)
    back = told("2", "1", root=str(root), classes=True)["mAP"]
    assert back["difference"] == pytest.approx(-scores["difference"])
    assert "snapshot 1 is worse than 2" in back["says"]


def test_a_snapshot_does_not_differ_from_itself(root: Path) -> None:
    scores = told("2", "2", root=str(root), classes=True)["mAP"]
    assert (scores["difference"], scores["interval"], scores["p"], scores["differ"]) == (0.0, [0.0, 0.0], 1.0, False)
    assert "score alike" in scores["says"]


def test_images_that_only_one_snapshot_holds_neither_ask_nor_count(root: Path) -> None:
    found = told("2", "3", root=str(root), classes=True)
    assert found["queries"] == 80
    # What is new lies between, of one's own class: it takes no rank, so only strangers among it could lower a score.
    assert abs(found["mAP"]["difference"]) < 0.03


def test_a_sample_is_the_same_in_both(root: Path) -> None:
    found = told("1", "2", root=str(root), classes=True, sample=25)
    assert found["queries"] == 25
    assert "of 25 queries" in found["mAP"]["says"]
    few = told("1", "2", root=str(root), classes=True, sample=12)["mAP"]
    assert "only large differences show" in few["says"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two snapshots of one source by different recipes: vectors of different lengths."""
    folder = tmp_path_factory.mktemp("recipes")
    source = write_files(folder / "src", images(12))
    run(source, folder / "root")
    run(source, folder / "root", recipe=RecipeOptions(**{**vars(QUICK), "whiten": "pca", "dims": 4}))
    write_files(folder / "queries", {"a.jpg": jpeg(1), "b.jpg": jpeg(4), "c.jpg": jpeg(7)})
    return folder


def test_each_snapshot_describes_queries_by_its_own_recipe(pictures: Path, tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"a.jpg": ["0001.jpg", "0005.jpg"], "b.jpg": ["0004.jpg"], "c.jpg": ["0007.jpg"]}))
    asked: dict[str, Any] = {
        "root": str(pictures / "root"),
        "queries": str(pictures / "queries"),
        "ground_truth": str(truth),
    }
    found = told("1", "2", **asked)
    for number, version in enumerate((1, 2)):
        alone = evaluate(EvaluateOptions(**asked, version=version), Reporter(io.StringIO()))
        assert found["mAP"]["first" if number == 0 else "second"] == pytest.approx(alone["mAP"])
    assert found["per_query"]["b.jpg"]["AP"] == [1.0, 1.0]
    assert found["queries"] == 3


def test_each_protocol_is_compared_by_itself(pictures: Path, tmp_path: Path) -> None:
    gnd = [
        {"easy": [1], "hard": [5], "junk": []},
        {"easy": [4], "hard": [], "junk": [1]},
        {"easy": [7], "hard": [], "junk": []},
    ]
    body = {"imlist": [f"{n:04d}" for n in range(12)], "qimlist": ["a", "b", "c"], "gnd": gnd}
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(body))
    asked: dict[str, Any] = {
        "root": str(pictures / "root"),
        "queries": str(pictures / "queries"),
        "ground_truth": str(truth),
    }
    found = told("1", "2", **asked)
    assert (found["easy"]["queries"], found["medium"]["queries"], found["hard"]["queries"]) == (3, 3, 1)
    alone = evaluate(EvaluateOptions(**asked, version=2), Reporter(io.StringIO()))
    for protocol in ("easy", "medium", "hard"):
        assert found[protocol]["mAP"]["second"] == pytest.approx(alone[protocol]["mAP"])
    shown = "\n".join(lines(found))
    assert all(f"{protocol}: mAP" in shown for protocol in ("easy", "medium", "hard"))


def test_snapshots_go_by_number_and_by_tag(root: Path) -> None:
    tag(TagOptions(root=str(root), name="v9", version=2))
    assert [version_of(str(root), text) for text in ("1", "v1", "v9")] == [1, 1, 2], "a tag comes before a number"
    for text in ("", "v", "-1", "1.5", "²"):
        with pytest.raises(UserError, match="no snapshot or tag"):
            version_of(str(root), text)


def test_the_command_line_says_it_in_a_sentence(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", str(root), "--classes", "--compare", "v1", "2", "--resamples", "500"]) == 0
    assert "snapshot 2 is better than 1" in capsys.readouterr().out
    assert cli.run(["evaluate", str(root), "--classes", "--compare", "1", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mAP"]["differ"] is True
    assert cli.run(["evaluate", str(root), "--classes", "--compare", "1", "77"]) == 2
    assert "no snapshot 77" in capsys.readouterr().err
