"""What options, a recipe file and the head make of a recipe: what is not named is inherited, to the fingerprint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.recipe import RecipeOptions, adopt, build_recipe, fit_again, stated_source_kind
from jobs.recipe_changes import changes
from jobs.recipe_file import RECIPES, read_recipe
from pipeline.core.errors import UserError
from pipeline.core.specs import kinds
from pipeline.core.types import Artifact
from pipeline.features.backbones import random_tensors
from pipeline.publish.recipe import Recipe
from tests.builders import QUICK

SOURCES: dict[str, dict[str, Any]] = {
    "tar": {"match": "*.jpg", "metadata": "license:string,year:int64"},
    "folder": {"match": "*.png"},
    "filelist": {"source_fields": {"root": "/data"}},
    "parquet": {"metadata": "caption:string"},
    "arrow": {"match": "*"},
    "npy": {"match": "*.jpg"},
    "kapture": {"match": "*.jpg"},
}
NETWORK = {"backbone": ("squeezenet1_1",), "weights": ("random:0", "random:1")}
WHITEN = {"whiten": ("pca", "FILE", "none"), "whiten_power": (0.5, 0.25), "dims": (3, 4)}
COMMON = {"dtype": ("float16", "float32"), "indexes": (("flat",), ("lsh", "flat"))}
EXTRACTORS: dict[str, tuple[str, dict[str, tuple[Any, ...]]]] = {
    "pooled": (
        '[extractor]\nkind = "pooled"\ncenter_bias = 0.5\n',
        {
            **NETWORK,
            "pooling": ("gem", "mac"),
            "gem_p": (3.0, 2.0),
            "scales": ((1.0,), (1.0, 0.5)),
            "resize": ("longest:1024", "longest:64"),
            "precision": ("fp32", "tf32", "bf16"),
            "decoding": ("full", "reduced"),
        },
    ),
    "delf": (
        '[extractor]\nkind = "delf"\nbackbone = "resnet18"\n',
        {"weights": ("random:0",), "scales": ((1.0, 2.0),)},
    ),
    "mop": (
        '[extractor]\nkind = "mop"\nside = 64\npatches = [64, 32]\n[encode]\nmethod = "mop"\nwords = 2\n',
        {**NETWORK, "pooling": ("spoc", "gem")},
    ),
    "sift": ('[extractor]\nkind = "sift"\n[encode]\nmethod = "vlad"\nwords = 4\n', {"resize": ("longest:512",)}),
    "histogram": ('[extractor]\nkind = "histogram"\nspace = "lab"\n', {"resize": ("longest:256", "longest:64")}),
    "hog": ('[extractor]\nkind = "hog"\ncell = 8\n', {}),
    "precomputed": ('[extractor]\nkind = "precomputed"\ndim = 16\norigin = "clip"\n', {}),
}
"""Recipe files of every kind, and values of the options that it has; the first ones are often defaults."""


def artifact(name: str) -> Artifact:
    return Artifact(uri=f"artifacts/{name}", sha256=name * 64, bytes=1)


def fitted(recipe: Recipe) -> Recipe:
    """The recipe as a run publishes it: with what it fitted."""
    update: dict[str, Any] = {}
    if recipe.encode is not None:
        update["encode"] = recipe.encode.model_copy(update={"artifact": artifact("c")})
    if recipe.whiten is not None and recipe.whiten.artifact is None:
        update["whiten"] = recipe.whiten.model_copy(update={"artifact": artifact("a")})
    return recipe.model_copy(update=update)


def again(options: RecipeOptions, head: Recipe, made_by: str = "") -> Recipe:
    kind = stated_source_kind(options, head)
    assert kind is not None, "the head has one"
    return adopt(build_recipe(options, head=head, source_kind=kind, made_by=made_by).recipe, head)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file of every kind, and a learned whitening; it fits no network, which is checked elsewhere."""
    made = tmp_path_factory.mktemp("recipes")
    torch.save({"m": np.zeros((8, 1), "f4"), "P": np.eye(8, dtype="f4")}, made / "learned.pth")
    for kind, (text, _) in EXTRACTORS.items():
        (made / f"{kind}.toml").write_text(text + "[indexes.flat]\n[indexes.lsh]\n")
    return made


def located(options: RecipeOptions, folder: Path) -> RecipeOptions:
    """The options with the paths of the files that they name."""
    whiten = str(folder / "learned.pth") if options.whiten == "FILE" else options.whiten
    return replace(options, recipe=str(folder / f"{options.recipe}.toml"), whiten=whiten)


@st.composite
def recipes(draw: st.DrawFn) -> tuple[str, RecipeOptions]:
    """The kind of source, and options that make a recipe of any extractor."""
    kind = draw(st.sampled_from(sorted(EXTRACTORS)))
    source = draw(st.sampled_from(sorted(SOURCES)))
    choices = {**EXTRACTORS[kind][1], **WHITEN, **COMMON}
    given_ = {name: draw(st.sampled_from(values)) for name, values in choices.items() if draw(st.booleans())}
    if "backbone" in choices:
        given_["backbone"] = choices["backbone"][0]
    if "weights" in choices:
        given_["weights"] = draw(st.sampled_from(choices["weights"]))
    if given_.get("whiten") == "none":
        # Settings of a whitening that is declined mean nothing.
        given_.pop("dims", None)
        given_.pop("whiten_power", None)
    given_.update(SOURCES[source], source_kind=source, recipe=kind)
    return source, RecipeOptions(**given_)


SLOW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_every_kind_is_tried() -> None:
    assert set(EXTRACTORS) == set(kinds("pipeline.extract"))
    assert set(SOURCES) == set(kinds("pipeline.sources"))


@SLOW
@given(drawn=recipes(), data=st.data())
def test_any_options_of_the_head_named_again_make_its_recipe(
    folder: Path, drawn: tuple[str, RecipeOptions], data: st.DataObject
) -> None:
    source, options = drawn[0], located(drawn[1], folder)
    built = build_recipe(options, head=None, source_kind=source)
    head = fitted(built.recipe)
    given_ = [f.name for f in fields(options) if getattr(options, f.name) not in (None, {})]
    kept = data.draw(st.sets(st.sampled_from(given_)))
    named = RecipeOptions(**{name: getattr(options, name) for name in kept})
    recipe = again(named, head, built.made_by)
    assert changes(head, recipe) == ()
    assert recipe.fingerprint == head.fingerprint


@SLOW
@given(drawn=recipes())
def test_the_heads_recipe_written_as_a_file_makes_it_again(folder: Path, drawn: tuple[str, RecipeOptions]) -> None:
    source, options = drawn[0], located(drawn[1], folder)
    head = fitted(build_recipe(options, head=None, source_kind=source).recipe)
    path = folder / "head.toml"
    path.write_text(as_toml(declared(head)))
    assert again(RecipeOptions(recipe=str(path)), head).fingerprint == head.fingerprint


def declared(recipe: Recipe) -> dict[str, Any]:
    """What a user writes of a recipe: nothing that is at its default, no digest of a fit."""
    stated = recipe.declared
    body: dict[str, Any] = {
        "dtype": stated.dtype,
        "source": stated.source.to_json(),
        "extractor": stated.extractor.to_json(),
        "indexes": {spec.kind: {k: v for k, v in spec.to_json().items() if k != "kind"} for spec in stated.indexes},
    }
    for part in ("encode", "whiten"):
        spec = getattr(stated, part)
        if spec is not None:
            body[part] = {k: v for k, v in spec.to_json().items() if k != "kind"} | {"method": spec.method}
            body[part].pop("artifact", None)
    return body


def as_toml(body: Mapping[str, Any]) -> str:
    return "\n".join(f"{name} = {_value(value)}" for name, value in body.items()) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_value(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value)


def quick(**more: Any) -> RecipeOptions:
    return replace(QUICK, **{"whiten": None, **more})


def head_of(**more: Any) -> Recipe:
    return fitted(build_recipe(quick(**more), head=None, source_kind="folder").recipe)


def test_an_extractor_that_changes_switches_no_whitening_on() -> None:
    recipe = again(RecipeOptions(resize="longest:32"), head_of())
    assert recipe.whiten is None


def test_a_fitted_whitening_is_fitted_again_with_its_settings_for_another_extractor() -> None:
    recipe = again(RecipeOptions(resize="longest:32"), head_of(whiten="pca", dims=3, whiten_power=0.25))
    assert recipe.whiten is not None
    assert (recipe.whiten.method, recipe.whiten.dims, recipe.whiten.power) == ("pca", 3, 0.25)
    assert recipe.whiten.artifact is None


def test_a_fitted_whitening_stays_when_only_dtype_source_or_indexes_change() -> None:
    head = head_of(whiten="pca", dims=3)
    for options in (RecipeOptions(dtype="float32"), RecipeOptions(match="*.png"), RecipeOptions(indexes=("lsh",))):
        assert again(options, head).whiten == head.whiten
        assert again(replace(options, whiten="pca", dims=3), head).whiten == head.whiten


@pytest.mark.parametrize("options", [RecipeOptions(dims=2), RecipeOptions(whiten_power=0.25)])
def test_a_whitening_from_a_file_is_not_replaced_by_a_fit_unless_one_is_named(
    folder: Path, options: RecipeOptions
) -> None:
    head = head_of(whiten=str(folder / "learned.pth"), dims=4)
    with pytest.raises(UserError, match="--whiten FILE"):
        again(options, head)
    assert again(RecipeOptions(dims=4, whiten_power=0.5), head).whiten == head.whiten
    fit = again(replace(options, whiten="pca"), head).whiten
    assert fit is not None
    assert (fit.method, fit.artifact) == ("pca", None)


def test_a_file_that_whitens_by_a_file_goes_on_with_the_heads_or_asks_for_one(folder: Path, tmp_path: Path) -> None:
    text = '[extractor]\nkind = "pooled"\nresize = "longest:32"\n[whiten]\nmethod = "file"\n'
    (tmp_path / "r.toml").write_text(text)
    options = RecipeOptions(recipe=str(tmp_path / "r.toml"))
    head = head_of(whiten=str(folder / "learned.pth"))
    assert again(options, head).whiten == head.whiten
    with pytest.raises(UserError, match="--whiten FILE"):
        again(options, head_of())


def test_a_checkpoint_named_again_keeps_what_was_set_beside_it(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "net.pth", seed=0)
    built = build_recipe(
        quick(model=model, pooling="mac", backbone=None, weights=None), head=None, source_kind="folder"
    )
    head = fitted(built.recipe)
    assert again(RecipeOptions(model=model), head).fingerprint == head.fingerprint
    assert again(RecipeOptions(backbone="squeezenet1_1"), head).fingerprint == head.fingerprint
    other = again(RecipeOptions(model=checkpoint(tmp_path / "other.pth", seed=1)), head)
    assert [change.setting for change in changes(head, other)] == ["extractor.weights", "extractor.pooling"]


def test_a_recipe_file_without_weights_goes_on_with_those_of_the_head(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('[extractor]\nkind = "pooled"\nresize = "longest:64"\npooling = "gem"\n')
    model = checkpoint(tmp_path / "net.pth", seed=0)
    options = RecipeOptions(recipe=str(tmp_path / "r.toml"), model=model, indexes=("flat",))
    head = fitted(build_recipe(options, head=None, source_kind="folder").recipe)
    assert again(replace(options, model=None), head).fingerprint == head.fingerprint


def test_the_file_that_made_the_head_takes_back_nothing_that_was_named_beside_it(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('[extractor]\nkind = "histogram"\n[indexes.flat]\n')
    options = RecipeOptions(recipe=str(tmp_path / "r.toml"), dtype="float32", resize="longest:64")
    built = build_recipe(options, head=None, source_kind="folder")
    alone = replace(options, dtype=None, resize=None)
    assert again(alone, built.recipe, built.made_by).fingerprint == built.recipe.fingerprint
    stated = again(alone, built.recipe)
    assert [str(change) for change in changes(built.recipe, stated)] == [
        "recipe: extractor.resize longest:64 -> longest:256",
        "recipe: dtype float32 -> float16",
    ]


def test_a_recipe_of_another_kind_is_taken_as_it_stands() -> None:
    head = head_of(whiten="pca", dims=3, match="*.jpg")
    recipe = again(RecipeOptions(recipe="hsv-histogram"), head)
    assert (recipe.extractor.kind, recipe.whiten) == ("histogram", None)
    assert recipe.source == head.source, "a file without [source] says nothing of it"
    assert str(changes(head, recipe)[0]) == "recipe: extractor.kind pooled -> histogram"


def test_the_kind_of_source_is_what_the_recipe_file_says(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('[source]\nkind = "npy"\n')
    options = RecipeOptions(recipe=str(tmp_path / "r.toml"))
    assert stated_source_kind(options, None) == "npy"
    assert stated_source_kind(options, head_of()) == "npy"
    assert stated_source_kind(replace(options, source_kind="tar"), None) == "tar"
    assert stated_source_kind(RecipeOptions(recipe="hsv-histogram"), head_of()) == "folder"
    assert stated_source_kind(RecipeOptions(), None) is None


def test_a_byte_order_mark_before_a_recipe_is_no_part_of_it(tmp_path: Path) -> None:
    plain = read_recipe("hsv-histogram")
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbf" + (RECIPES / "hsv-histogram.toml").read_bytes())
    assert read_recipe(str(tmp_path / "r.toml")) == plain


@pytest.mark.parametrize("text", ["extractor = 3\n", "whiten = []\n", "[indexes]\nflat = 1\n"])
def test_a_part_that_is_no_table_is_a_user_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UserError, match="no table"):
        build_recipe(RecipeOptions(recipe=str(tmp_path / "r.toml")), head=None, source_kind="folder")


def checkpoint(path: Path, seed: int) -> str:
    """A cirtorch checkpoint of a small network."""
    state = {**random_tensors("squeezenet1_1", seed), "pool.p": torch.tensor([2.5])}
    meta = {"architecture": "squeezenet1_1", "pooling": "gem", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
    torch.save({"state_dict": state, "meta": meta}, path)
    return str(path)


@pytest.mark.parametrize("options", [RecipeOptions(dims=4), RecipeOptions(whiten_power=0.5)])
def test_a_setting_of_whitening_switches_none_on_where_the_head_has_none(options: RecipeOptions) -> None:
    with pytest.raises(UserError, match="add --whiten pca"):
        again(options, head_of())
    assert again(replace(options, whiten="pca"), head_of()).whiten is not None


def test_fitting_again_leaves_what_comes_from_a_file(folder: Path) -> None:
    head = head_of(whiten="pca", dims=3)
    assert fit_again(head).fingerprint == head.declared.fingerprint != head.fingerprint
    for nothing in (head_of(), head_of(whiten=str(folder / "learned.pth"))):
        with pytest.raises(UserError, match="nothing to fit"):
            fit_again(nothing)
