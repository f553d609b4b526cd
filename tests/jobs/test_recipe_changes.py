"""What a run says of the difference between its recipe and the head's, and of what that costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.recipe import RecipeOptions, build_recipe
from jobs.recipe_changes import changes, lines
from pipeline.core.errors import UserError
from pipeline.extract import histogram
from pipeline.publish.recipe import Recipe
from pipeline.sources import folder, tar
from tests.builders import jpeg, run, tar_bytes, write_files


def recipe(**more: Any) -> Recipe:
    return Recipe(**{"source": folder.Spec(), "extractor": histogram.Spec(), **more})


def test_what_is_absent_is_said_to_be_none() -> None:
    matched = recipe(source=folder.Spec(match="*.png", exclude=("a/*",)))
    assert list(map(str, changes(recipe(), matched))) == [
        "recipe: source.match none -> *.png",
        "recipe: source.exclude none -> a/*",
    ]
    assert str(changes(matched, recipe())[0]) == "recipe: source.match *.png -> none"


def test_settings_that_kinds_share_are_compared_when_the_kind_changes() -> None:
    before = recipe(source=folder.Spec(skip_system=True, match="*.jpg"))
    after = recipe(source=tar.Spec(skip_system=True, match="*.png", rules=2))
    assert list(map(str, changes(before, after))) == [
        "recipe: source.kind folder -> tar",
        "recipe: source.match *.jpg -> *.png",
        "recipe: source.rules none -> 2",
    ]


def test_what_the_source_no_longer_selects_is_not_said_to_be_extracted() -> None:
    selected = changes(recipe(), recipe(source=folder.Spec(match="*.png")))
    assert lines(selected, 9)[-1].endswith("all 9 images are extracted again, as far as they are still selected")
    assert lines(changes(recipe(), recipe(dtype="float32")), 9)[-1].endswith("all 9 images are extracted again")


def test_other_metadata_extracts_nothing_and_is_said_to(tmp_path: Path) -> None:
    files = {f"{n}.{kind}": data for n in range(4) for kind, data in (("jpg", jpeg(n)), ("json", side(n)))}
    source, root = write_files(tmp_path / "src", {"a.tar": tar_bytes(files)}), tmp_path / "root"
    run(source, root)
    for metadata in ("year:int64", "year:int64,name:string"):
        report = run(source, root, recipe=RecipeOptions(metadata=metadata))
        assert report.published
        assert (report.stats["images"], report.stats["reused"]) == (0, 4)
        assert report.extracted_again == 0
        said = lines(report.changes, report.extracted_again)
        assert "no image is extracted" in said[-1]


def side(number: int) -> bytes:
    return json.dumps({"year": 1990 + number, "name": str(number)}).encode()


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_that_are_not_finite_are_refused_in_options_and_in_files(tmp_path: Path, value: str) -> None:
    options = RecipeOptions(whiten="pca", whiten_power=float(value), weights="random:0", backbone="squeezenet1_1")
    with pytest.raises(UserError, match=r"whiten\.power.*finite"):
        build_recipe(options, head=None, source_kind="folder")
    (tmp_path / "r.toml").write_text(f'[extractor]\nkind = "histogram"\n[whiten]\npower = {value}\n')
    with pytest.raises(UserError, match=r"whiten\.power.*finite"):
        build_recipe(RecipeOptions(recipe=str(tmp_path / "r.toml")), head=None, source_kind="folder")


def test_settings_that_are_wrong_together_are_said_without_all_the_others() -> None:
    with pytest.raises(UserError) as caught:
        build_recipe(
            RecipeOptions(backbone="squeezenet1_1", weights="random:0", gem_p=0.0), head=None, source_kind="folder"
        )
    assert str(caught.value) == "extract pooled: settings: gem_p must be in ]0, 100]; correct the setting"
