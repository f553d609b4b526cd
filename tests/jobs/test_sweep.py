"""`sightline sweep` as people and scripts meet it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jobs import cli
from jobs.recipe import RecipeOptions
from pipeline.index.ivfpq import Spec
from tests.builders import run
from tests.evaluate.roots import clustered, published

INDEXES = "[indexes.flat]\n[indexes.ivfpq]\nm = 4\nnlist = 16\nnprobe = 4\n[indexes.lsh]\n"
QUICKLY = ["--queries", "60", "--seconds", "0.01"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x, _ = clustered(800, 16, 20)
    return published(tmp_path_factory.mktemp("sweep"), x, [f"i{n}" for n in range(800)], INDEXES)


def test_a_sweep_finds_a_setting(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["sweep", str(root), *QUICKLY, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["snapshot"], told["index"], told["effort"], told["queries"]) == (1, "ivfpq", "nprobe", 60)
    assert told["found"] in told["points"]
    assert told["found"]["recall"] >= 0.95
    assert told["found"]["bytes"] == 12
    assert told["usual"]["effort"] == 4
    assert told["limits"] == []


def test_people_see_a_table_and_a_sentence(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["sweep", str(root), *QUICKLY, "--effort", "1,4", "--rerank", "0,100", "--target", "0.5"]) == 0
    captured = capsys.readouterr()
    assert "nprobe" in captured.out
    assert "now    nprobe 4, 100 re-ranked" in captured.out
    assert "found  nprobe" in captured.out
    assert captured.err.count("re-ranked: recall@10") == 4, "every setting is told as it is measured"


def test_where_nothing_is_found_it_is_said_why(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["sweep", str(root), *QUICKLY, "--effort", "1", "--rerank", "0"]) == 0
    out = capsys.readouterr().out
    assert "no setting that has recall@10 of 0.95" in out
    assert "re-ranking limits" in out
    assert cli.run(["sweep", str(root), *QUICKLY, "--index", "flat"]) == 0
    assert "more than the 64 allowed" in capsys.readouterr().out


def test_codes_that_a_budget_made_smaller_are_counted_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, _ = clustered(600, 16, 20)
    (tmp_path / "src").mkdir()
    np.save(tmp_path / "src" / "a.npy", x)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[source]\nkind = "npy"\n[extractor]\nkind = "precomputed"\ndim = 16\n[indexes.ivfpq]\n')
    options = RecipeOptions(recipe=str(recipe))
    # Two bytes of code and eight of the id; beside them centroids, codebooks and lists: 17 kB and 15 times 128 bytes.
    budget = Spec(m=2).resolve(rows=600, dim=16).loaded_bytes(600, 16)
    run(tmp_path / "src", tmp_path / "root", recipe=options, memory_bytes=budget)
    assert cli.run(["sweep", str(tmp_path / "root"), *QUICKLY, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {point["bytes"] for point in told["points"]} == {10}, "two bytes of code, eight of the id"


@pytest.mark.parametrize("form", ["png", "svg"])
def test_the_curve_is_drawn(root: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / f"curve.{form}"
    assert cli.run(["sweep", str(root), *QUICKLY, "--index", "lsh", "--rerank", "0,50", "--plot", str(target)]) == 0
    data = target.read_bytes()
    if form == "png":
        assert data.startswith(b"\x89PNG")
    else:
        assert b"<svg" in data
        assert b"milliseconds" in data


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--index", "magic"], "magic"),
        (["--index", "lsh", "--effort", "3"], "--effort"),
        (["--effort", "1,x"], "--effort 1,x"),
        (["--effort", "0"], "--effort 0"),
        (["--plot", "curve.pdf"], "curve.pdf"),
        (["--snapshot", "9"], "no snapshot 9"),
    ],
)
def test_what_cannot_be_swept_is_one_line(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert cli.run(["sweep", str(root), *arguments]) == 2
    assert words in capsys.readouterr().err
