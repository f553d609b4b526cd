"""The command line as scripts and people meet it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import cli
from pipeline.features.backbones import random_tensors
from pipeline.table import DescriptorReader
from tests.builders import images, jpeg, tar_bytes, write_files

QUICK = ["--backbone", "squeezenet1_1", "--weights", "random:0", "--resize", "longest:64", "--indexes", "flat,lsh"]


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture
def sightline(capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_files(tmp_path / "src", images(6))


def test_the_commands_tell_one_story(sightline, source: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path / "root"
    indexed = sightline("index", source, root, *QUICK, "--json")
    assert indexed.code == 0
    assert indexed.json["snapshot"] == 1
    assert indexed.json["images"] == {
        "seen": 6,
        "indexed": 6,
        "rejected": 0,
        "duplicates": 0,
        "added": 6,
        "removed": 0,
    }
    status = sightline("status", root, "--json").json
    assert (status["snapshot"], status["images"]) == (1, 6)
    assert [index["kind"] for index in status["indexes"]] == ["flat", "lsh"]
    found = sightline("query", root, source / "0002.jpg", "-k", 3, "--json").json
    assert found["snapshot"] == 1
    (result,) = found["results"]
    assert result["query"].endswith("0002.jpg")
    assert result["hits"][0]["key"] == "0002.jpg"
    assert set(result["hits"][0]) == {"key", "score", "uri", "width", "height"}
    assert len(result["hits"]) == 3
    assert sightline("verify", root, "--json").json["ok"] is True


def test_people_are_told_that_weights_are_random(sightline, source: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path / "root"
    assert "random" in sightline("index", source, root, *QUICK).out
    assert "random" in sightline("status", root).out
    assert "random" in sightline("query", root, source / "0001.jpg").out
    assert "random:0" in sightline("status", root, "--json").json["descriptor"]


def test_evaluate_scores_both_forms_of_ground_truth(sightline, source: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root, queries = tmp_path / "root", write_files(tmp_path / "q", {"a.jpg": jpeg(1), "b.jpg": jpeg(4)})
    sightline("index", source, root, *QUICK)
    truth = tmp_path / "gt.json"
    truth.write_text(json.dumps({"a.jpg": ["0001.jpg"], "b.jpg": ["0004.jpg"]}))
    plain = sightline("evaluate", root, "--queries", queries, "--ground-truth", truth, "--json").json
    assert (plain["mAP"], plain["P@1"], plain["queries"], plain["index"]) == (1.0, 1.0, 2, "flat")
    gnd = [{"easy": [1], "hard": [], "junk": []}, {"easy": [], "hard": [4], "junk": [1]}]
    names = [f"{n:04d}" for n in range(6)]
    truth.write_text(json.dumps({"imlist": names, "qimlist": ["a", "b"], "gnd": gnd}))
    revisited = sightline("evaluate", root, "--queries", queries, "--ground-truth", truth, "--json").json
    assert revisited["easy"] == {"mAP": 1.0, "queries": 1, "mP@1": 1.0, "mP@5": 1.0, "mP@10": 1.0}
    assert revisited["hard"]["mAP"] == 1.0
    assert revisited["medium"]["queries"] == 2


def test_a_box_and_an_expansion_are_understood(sightline, source: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    sightline("index", source, tmp_path / "root", *QUICK)
    image = source / "0001.jpg"
    found = sightline("query", tmp_path / "root", image, "--box", "0,0,40,40", "--expand", "2,3", "--json")
    assert found.code == 0
    outside = sightline("query", tmp_path / "root", image, "--box", "500,500,10,10")
    assert (outside.code, "outside" in outside.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["index", "NOWHERE", "ROOT"], "does not exist"),
        (["index", "SRC", "ROOT", "--backbone", "resnet7"], "resnet7"),
        (["index", "SRC", "ROOT", "--weights", "random:x"], "random:0"),
        (["index", "SRC", "ROOT", "--weights", "nowhere.pth"], "nowhere.pth"),
        (["index", "SRC", "ROOT", "--resize", "huge", "--backbone", "squeezenet1_1", "--weights", "random:0"], "huge"),
        (["index", "SRC", "ROOT", "--indexes", "magic", *QUICK[:4]], "magic"),
        (["index", "SRC", "ROOT", "--scales", "1,x"], "--scales"),
        (["index", "SRC", "ROOT", "--pooling", "maximal", *QUICK[:4]], "maximal"),
        (["index", "SRC", "ROOT", "--recipe", "nonesuch"], "nonesuch"),
        (["index", "SRC"], "root"),
        (["index", "http://169.254.169.254/", "ROOT"], "not allowed"),
        (["status", "ROOT"], "no snapshot"),
        (["query", "ROOT", "x.jpg"], "no snapshot"),
        (["nonesuch"], "nonesuch"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(  # type: ignore[no-untyped-def]
    sightline, source: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    places = {"SRC": str(source), "ROOT": str(tmp_path / "root"), "NOWHERE": str(tmp_path / "nowhere")}
    answer = sightline(*[places.get(argument, argument) for argument in arguments])
    assert answer.code == 2
    assert words in answer.err
    assert "Traceback" not in answer.err
    assert len(answer.err.strip().splitlines()) <= 2


def test_errors_are_json_where_json_was_asked_for(sightline, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    answer = sightline("status", tmp_path / "root", "--json")
    assert answer.code == 2
    assert answer.json["exit"] == 2
    assert "no snapshot" in answer.json["error"]


def test_set_aside_shards_and_the_gate_exit_with_4(sightline, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    whole = tar_bytes(images(3))
    source = write_files(tmp_path / "src", {"a.tar": whole, "b.tar": whole[:2000]})
    answer = sightline("index", source, tmp_path / "root", *QUICK, "--json")
    assert (answer.code, answer.json["published"]) == (4, True)
    write_files(tmp_path / "two", {**images(1), "x.jpg": b"x"})
    gate = sightline("index", tmp_path / "two", tmp_path / "root2", *QUICK, "--max-reject-rate", "0.2", "--json")
    assert (gate.code, gate.json["published"], gate.json["snapshot"]) == (4, False, None)


def test_a_recipe_file_says_it_all_and_options_override_it(sightline, source: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        '[extractor]\nkind = "pooled"\nbackbone = "squeezenet1_1"\nweights = "random:3"\npooling = "mac"\n'
        'resize = "longest:64"\n[whiten]\nmethod = "pca"\ndims = 2\n[indexes.flat]\n[indexes.lsh]\nnbits = 64\n'
    )
    sightline("index", source, tmp_path / "root", "--recipe", recipe, "--pooling", "spoc")
    found = sightline("status", tmp_path / "root", "--json").json["recipe"]
    assert (found["extractor"]["pooling"], found["extractor"]["origin"]) == ("spoc", "random:3")
    assert found["whiten"]["dims"] == 2
    assert found["indexes"] == [{"kind": "flat"}, {"kind": "lsh", "nbits": 64}]
    recipe.write_text("this is not toml")
    assert sightline("index", source, tmp_path / "root9", "--recipe", recipe).code == 2


def test_convert_writes_what_index_takes_as_a_model(sightline, source: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    state = {**random_tensors("resnet18", 0), "adpool.p": torch.tensor([2.7])}
    state |= {"fc.weight": torch.rand(16, 512), "fc.bias": torch.rand(16)}
    torch.save({"state_dict": state, "model_options": {"arch": "resnet18_rmac", "out_dim": 16}}, tmp_path / "dir.pt")
    converted = sightline("convert", tmp_path / "dir.pt", tmp_path / "model", "--json")
    assert converted.json["backbone"] == "resnet18"
    fields = ["--resize", "longest:64", "--indexes", "flat", "--dtype", "float32"]
    one = sightline("index", source, tmp_path / "root1", "--model", tmp_path / "model", *fields, "--json")
    two = sightline("index", source, tmp_path / "root2", "--model", tmp_path / "dir.pt", *fields, "--json")
    assert one.code == two.code == 0
    status = sightline("status", tmp_path / "root1", "--json").json["recipe"]["extractor"]
    assert (status["backbone"], status["gem_p"], status["projection"]) == ("resnet18", None, True)
    found = sightline("query", tmp_path / "root1", source / "0003.jpg", "--json").json
    assert found["results"][0]["hits"][0]["key"] == "0003.jpg"


def test_help_names_every_option_of_the_contract(sightline) -> None:  # type: ignore[no-untyped-def]
    text = sightline("index", "--help").out
    names = "recipe backbone weights model pooling gem-p scales resize whiten whiten-power dims dtype precision indexes"
    names += " source-kind match runner address workers gpus-per-worker max-reject-rate dry-run json"
    assert [name for name in names.split() if f"--{name}" not in text] == []


def test_a_whitening_out_of_a_foreign_file_is_applied_with_power_and_dims(  # type: ignore[no-untyped-def]
    sightline, source: Path, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    lw = {"m": np.zeros((512, 1)), "P": np.linalg.qr(generator.normal(size=(512, 512)))[0]}
    torch.save(lw, tmp_path / "side.pth")
    root = tmp_path / "root"
    assert sightline("index", source, root, *QUICK, "--whiten", tmp_path / "side.pth", "--dims", 64).code == 0
    status = sightline("status", root, "--json").json
    assert status["recipe"]["whiten"]["method"] == "file"
    (path,) = (root / "descriptors").rglob("*.parquet")
    assert DescriptorReader(path).dim == 64
    found = sightline("query", root, source / "0003.jpg", "--json").json
    assert found["results"][0]["hits"][0]["key"] == "0003.jpg"
    wrong = sightline("index", source, tmp_path / "root2", *QUICK, "--whiten", f"{tmp_path}/side.pth#x", "--dims", 900)
    assert wrong.code == 2


def test_indexed_images_are_searched_with_by_key(sightline, source: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path / "root"
    sightline("index", source, root, *QUICK)

    def asked(*more: str) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = sightline("query", root, *more, "-k", "5", "--json").json["results"]
        return results

    (by_key,), (by_image,) = asked("--key", "0003.jpg"), asked(str(source / "0003.jpg"))
    assert by_key["query"] == "0003.jpg"
    keys = [hit["key"] for hit in by_key["hits"]]
    assert keys[:4] == [hit["key"] for hit in by_image["hits"]][1:]
    assert by_image["hits"][0]["key"] == "0003.jpg"
    boxed = asked("--key", "0003.jpg", "--key", "0004.jpg", "--box", "0,0,20,20")
    assert [one["query"] for one in boxed] == ["0003.jpg", "0004.jpg"]
    assert [hit["score"] for hit in boxed[0]["hits"]] != [hit["score"] for hit in by_key["hits"]]
    unknown = sightline("query", root, "--key", "none")
    assert (unknown.code, unknown.err.count("none: is no image of snapshot 1")) == (2, 1)
    nothing = sightline("query", root)
    assert (nothing.code, "has nothing to search with" in nothing.err) == (2, True)
