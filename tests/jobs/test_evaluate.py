"""Evaluation as users have it: by query images, by class folders, from a file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import cli, evaluate_runs
from jobs.delete import EditOptions, delete
from jobs.evaluate import EvaluateOptions, evaluate, lines
from jobs.progress import Reporter
from jobs.recipe import RecipeOptions
from pipeline.core.errors import UserError
from pipeline.core.types import Floats
from pipeline.evaluate import rank
from pipeline.evaluate.average_precision import score
from pipeline.search.engine import SearchIndex, SearchOptions
from tests.builders import encoded, images, jpeg, run, tar_bytes, write_files
from tests.evaluate.roots import FILE, clustered, published
from tests.evaluate.test_revisited import slow_ap

NAMES = [f"class-{n % 6}/{n:03d}.jpg" for n in range(58)] + ["alone/058.jpg", "059.jpg"]


def told(**options: Any) -> dict[str, Any]:
    return evaluate(EvaluateOptions(**options), Reporter(io.StringIO()))


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return clustered(60, 12, 6)[0]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, vectors: Floats) -> Path:
    indexes = "[indexes.flat]\n[indexes.lsh]\nnbits = 16\n"
    return published(tmp_path_factory.mktemp("evaluate"), vectors, NAMES, indexes)


def slow(root: Path) -> dict[str, Any]:
    """Every image asks for the others of its folder, step by step."""
    with SearchIndex.open(str(root)) as index:
        live = index.live()
        keys = [name.key for name in index.stored.names(live.file, live.row)]
        x = index.stored.vectors(live.file, live.row)
        found = index.search(x, SearchOptions(k=len(keys), index="flat"))
    folder = {key: key.split("/")[1] if key.count("/") == 2 else key for key in keys}
    relevant = {key: {k for k in keys if folder[k] == folder[key]} - {key} for key in keys}
    scores = score(
        {key: [h.key for h in hits if h.key != key] for key, hits in zip(keys, found, strict=True)}, relevant
    )
    return {"mAP": scores.mean_average_precision, "P@1": scores.precision_at_1, "R@5": scores.recall[5]}


@pytest.mark.parametrize("pairs", [1, 130, 1 << 21])
def test_every_image_asks_for_the_others_of_its_class(root: Path, monkeypatch: pytest.MonkeyPatch, pairs: int) -> None:
    monkeypatch.setattr(rank, "PAIRS", pairs)
    found = told(root=str(root), classes=True)
    expected = slow(root)
    assert found["mAP"] == pytest.approx(expected["mAP"], abs=1e-12)
    assert found["P@1"] == pytest.approx(expected["P@1"])
    assert found["R@k"]["5"] == pytest.approx(expected["R@5"])
    # The loose image lies in the container itself, which is its folder, alone.
    assert (found["queries"], found["classes"], found["skipped"], found["unclassed"]) == (58, 6, 2, 0)
    assert (found["images"], found["ranked"], found["complete"]) == (60, 59, True)
    assert lines(found)[1].endswith("6 classes; 2 alone in their class do not ask")


def test_the_level_of_the_folder_may_be_chosen(root: Path) -> None:
    found = told(root=str(root), classes=True, level=2)
    assert (found["queries"], found["skipped"], found["unclassed"]) == (58, 1, 1)
    container = told(root=str(root), classes=True, level=1)
    assert (container["classes"], container["mAP"]) == (1, 1.0), "all are of one container"
    with pytest.raises(UserError, match="no folder with two images"):
        told(root=str(root), classes=True, level=5)
    with pytest.raises(UserError, match="--class-level 0"):
        told(root=str(root), classes=True, level=0)


def test_a_sample_asks_and_the_seed_decides_which(root: Path) -> None:
    one, same, other = (told(root=str(root), classes=True, sample=20, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one["mAP"] != other["mAP"]
    assert one["queries"] + one["skipped"] + one["unclassed"] == 20
    everyone = told(root=str(root), classes=True, sample=1000)
    assert everyone == told(root=str(root), classes=True)


def test_rankings_are_cut_where_that_is_asked_for_or_the_collection_is_large(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = told(root=str(root), classes=True), told(root=str(root), classes=True, depth=7)
    assert (cut["ranked"], cut["complete"]) == (7, False)
    assert cut["mAP"] < whole["mAP"]
    assert (cut["P@1"], cut["P@k"]["5"]) == (whole["P@1"], whole["P@k"]["5"])
    assert "cut at 7" in lines(cut)[0]
    monkeypatch.setattr(rank, "COMPLETE", 30)
    monkeypatch.setattr(rank, "LEAST_DEPTH", 5)
    assert told(root=str(root), classes=True)["ranked"] == 20, "twice the largest class"


def test_what_was_deleted_neither_asks_nor_answers(tmp_path: Path, vectors: Floats) -> None:
    root = published(tmp_path, vectors, NAMES)
    delete(EditOptions(root=str(root), keys=(f"{FILE}/class-0/000.jpg",)))
    found = told(root=str(root), classes=True)
    assert (found["queries"], found["images"]) == (57, 59)
    assert found["mAP"] == pytest.approx(slow(root)["mAP"])


def test_an_approximate_index_is_measured_as_it_answers(root: Path) -> None:
    rough = told(root=str(root), classes=True, index="lsh", rerank=0)
    fine = told(root=str(root), classes=True, index="lsh", rerank=60)
    exact = told(root=str(root), classes=True)
    assert rough["mAP"] < exact["mAP"] - 0.01
    assert fine["mAP"] == pytest.approx(exact["mAP"])
    assert rough["complete"]


def test_so_many_candidates_are_re_ranked_as_a_query_re_ranks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = told(root=str(root), classes=True, index="lsh")
    assert usual == told(root=str(root), classes=True, index="lsh", rerank=max(100, 10 * SearchOptions().k))
    monkeypatch.setattr(evaluate_runs, "RERANK", 12)
    few = told(root=str(root), classes=True, index="lsh")
    assert few == told(root=str(root), classes=True, index="lsh", rerank=12)
    assert few != usual


@pytest.mark.parametrize("index", ["flat", "lsh"])
def test_class_folders_score_alike_from_a_file(root: Path, tmp_path: Path, index: str) -> None:
    file = str(tmp_path / "r.parquet")
    for options in ({}, {"depth": 9}, {"sample": 15}):
        direct = told(root=str(root), classes=True, index=index, export=file, **options)
        assert told(results=file, classes=True) == direct
    table = pq.read_table(file)
    assert table.column_names == ["query", "rank", "key", "score"]
    first = table.filter(table["query"].to_numpy(zero_copy_only=False) == table["query"][0].as_py())
    assert first["rank"].to_pylist() == list(range(1, 60))
    assert first["query"][0].as_py() not in first["key"].to_pylist()
    assert (np.diff(first["score"].to_numpy()) <= 1e-6).all() or index == "lsh"
    with pytest.raises(UserError, match="export it anew"):
        told(results=file, classes=True, level=1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    tars = {
        f"{name}.tar": tar_bytes({f"{'even' if n % 2 else 'odd'}/{key}": data for n, (key, data) in enumerate(part)})
        for name, part in (("a", list(images(6).items())), ("b", list(images(6, start=6).items())))
    }
    run(write_files(folder / "src", tars), folder / "root")
    write_files(folder / "queries", {"a.jpg": jpeg(1), "b.jpg": jpeg(4)})
    return folder


def test_query_images_score_alike_from_a_file(pictures: Path, tmp_path: Path) -> None:
    file, truth = str(tmp_path / "r.parquet"), tmp_path / "truth.json"
    relevant = {"a.jpg": ["a.tar/even/0001.jpg", "b.tar/odd/0008.jpg"], "b.jpg": ["a.tar/odd/0004.jpg"]}
    truth.write_text(json.dumps(relevant))
    asked = {"root": str(pictures / "root"), "queries": str(pictures / "queries")}
    direct = told(**asked, ground_truth=str(truth), export=file)
    assert (direct["mAP"] > 0.5, direct["P@1"], direct["queries"], direct["complete"]) == (True, 1.0, 2, True)
    assert told(results=file, ground_truth=str(truth)) == direct
    gnd = [{"easy": [1], "hard": [], "junk": []}, {"easy": [], "hard": [4], "junk": [1]}]
    body = {"imlist": [f"{n:04d}" for n in range(12)], "qimlist": ["a", "b"], "gnd": gnd}
    truth.write_text(json.dumps(body))
    direct = told(**asked, ground_truth=str(truth), export=file)
    assert direct["hard"]["mAP"] == 1.0
    assert told(results=file, ground_truth=str(truth)) == direct
    with pytest.raises(UserError, match="what classes"):
        told(results=file, classes=True)


def test_equal_stems_and_distractors_count_as_the_protocol_has_it(tmp_path: Path) -> None:
    # Equal stems in two folders, and a third folder that imlist does not name.
    files = {f"{folder}/{n}.jpg": jpeg(10 * seed + n) for seed, folder in enumerate("abd") for n in range(3)}
    run(write_files(tmp_path / "src", files), tmp_path / "root")
    write_files(tmp_path / "q", {"1.jpg": files["d/0.jpg"]})
    asked = {"root": str(tmp_path / "root"), "queries": str(tmp_path / "q"), "ground_truth": str(tmp_path / "gt.json")}

    def scored(imlist: list[str], **gnd: list[int]) -> dict[str, Any]:
        body = {"imlist": imlist, "qimlist": ["1"], "gnd": [{"easy": [], "hard": [], "junk": [], **gnd}]}
        (tmp_path / "gt.json").write_text(json.dumps(body))
        return told(**asked, export=str(tmp_path / "r.parquet"))

    every = [f"{folder}/{n}.jpg" for folder in "ab" for n in range(3)]
    found = scored(every, easy=[1, 4])
    order = pq.read_table(tmp_path / "r.parquet")["key"].to_pylist()
    assert order[0] == "d/0.jpg", "the query itself is a distractor here, and comes first"
    assert found["easy"]["mAP"] == pytest.approx(slow_ap(order, {"a/1.jpg", "b/1.jpg"}, set()))
    assert (found["distractors"], found["ranked_of_imlist"]) == (3, 6)
    assert "3 images that imlist does not name count as negatives" in "\n".join(lines(found))
    assert told(results=str(tmp_path / "r.parquet"), ground_truth=asked["ground_truth"]) == found
    assert (found["medium"]["mAP"] or 0) <= 1
    assert found["hard"]["mAP"] is None
    assert "hard   no query has positives" in "\n".join(lines(found))
    with pytest.raises(UserError, match=r"'1' in imlist may mean 'a/1.jpg' or 'b/1.jpg'"):
        scored(["1", "2"], easy=[0])


def test_ground_truth_of_another_collection_is_refused_unless_it_is_allowed(pictures: Path, tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"a.jpg": ["0001.jpg", "0008.jpg"], "z.jpg": ["0004.jpg"]}))
    asked = {"root": str(pictures / "root"), "queries": str(pictures / "queries"), "ground_truth": str(truth)}
    with pytest.raises(UserError, match=r"names 3 of 3 images that are unknown, for example '0001.jpg'"):
        told(**asked)
    found = told(**asked, allow_unknown=True)
    assert (found["mAP"], found["queries"]) == (0.0, 1)
    assert found["unknown"] == {"queries": 1, "images": 3, "of": 3, "examples": ["0001.jpg", "0004.jpg", "0008.jpg"]}
    assert "3 of 3 images of the ground truth are unknown and count as missed" in "\n".join(lines(found))
    truth.write_text(json.dumps({"a.jpg": ["a.tar/even/0001.jpg"], "z.jpg": ["b.tar/odd/0008.jpg"]}))
    with pytest.raises(UserError, match=r"no image for 1 of 2 queries, for example for query 'z.jpg'"):
        told(**asked)
    write_files(tmp_path / "twice", {"x/a.jpg": jpeg(1), "y/a.jpg": jpeg(2)})
    found = told(**asked, allow_unknown=True)
    assert "images of the ground truth" not in "\n".join(lines(found)), "all are known"
    assert "1 queries have no image and do not count" in lines(found)
    truth.write_text(json.dumps({"a.jpg": ["a.tar/even/0001.jpg"], "b.jpg": []}))
    found = told(**asked)
    assert (found["queries"], found["skipped"]) == (1, 1)
    assert "1 queries have no relevant images and do not count" in lines(found)
    truth.write_text(json.dumps({"a.jpg": ["a.tar/even/0001.jpg"]}))
    with pytest.raises(UserError, match=r"'a.jpg' in queries may mean 'x/a.jpg' or 'y/a.jpg'"):
        told(**{**asked, "queries": str(tmp_path / "twice")})


def test_a_class_may_be_spread_over_tars(pictures: Path) -> None:
    found = told(root=str(pictures / "root"), classes=True)
    assert (found["classes"], found["queries"]) == (2, 12)
    by_tar = told(root=str(pictures / "root"), classes=True, level=1)
    assert (by_tar["classes"], by_tar["queries"]) == (2, 12)
    assert found["mAP"] != by_tar["mAP"]


def test_an_export_is_there_although_scoring_fails(pictures: Path, tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"a.jpg": []}))
    file = tmp_path / "r.parquet"
    with pytest.raises(UserError, match="no query with relevant"):
        told(
            root=str(pictures / "root"),
            queries=str(pictures / "queries"),
            ground_truth=str(truth),
            export=str(file),
        )
    assert pq.read_table(file).num_rows == 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ROOT"], "--ground-truth FILE, or --classes"),
        (["ROOT", "--ground-truth", "x.json"], "no queries"),
        (["--classes"], "nothing to rank"),
        (["ROOT", "--classes", "--queries", "q"], "--classes"),
        (["ROOT", "--results", "r.parquet", "--classes"], "--results"),
        (["ROOT", "--queries", "q", "--ground-truth", "x.json", "--sample", "3"], "--sample"),
        (["--results", "nowhere.parquet", "--classes"], "does not exist"),
        (["ROOT", "--classes", "--index", "magic"], "magic"),
        (["ROOT", "--classes", "--snapshot", "99"], "no snapshot 99"),
        (["ROOT", "--classes", "--snapshot", "yesterday"], "yesterday"),
        (["ROOT", "--classes", "--verify", "5"], "--verify"),
        (["ROOT", "--classes", "--compare", "1", "1", "--export", "r.parquet"], "--compare"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code = cli.run(["evaluate", *(str(root) if text == "ROOT" else text for text in arguments)])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2
    assert error.startswith("sightline: ")
    assert words in error


@pytest.mark.parametrize("kept", [False, True], ids=["votes", "encoded, kept beside"])
def test_local_descriptors_ask_too_and_are_verified(tmp_path: Path, kept: bool) -> None:
    pytest.importorskip("cv2")
    recipe = tmp_path / "recipe.toml"
    encode = '[encode]\nmethod = "vlad"\nwords = 4\nkeep = true\n' if kept else ""
    recipe.write_text(f'[extractor]\nkind = "sift"\nfeatures = 40\n{encode}[indexes.flat]\n')
    files: dict[str, bytes] = {}
    for scene in range(4):
        image = Image.fromarray(np.random.default_rng(scene).integers(0, 256, (24, 32, 3), dtype=np.uint8))
        large = image.resize((256, 192), Image.Resampling.BICUBIC)
        files |= {f"{scene}/{turn}.png": encoded(large.rotate(turn)) for turn in (0, 10)}
    run(write_files(tmp_path / "src", files), tmp_path / "root", recipe=RecipeOptions(recipe=str(recipe)))
    plain = told(root=str(tmp_path / "root"), classes=True)
    verified = told(root=str(tmp_path / "root"), classes=True, verify=7)
    assert (plain["queries"], plain["ranked"], verified["mAP"]) == (8, 7, 1.0)
    assert plain["mAP"] > 0.8
