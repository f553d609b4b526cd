"""The named recipes: each is sound, and those that need a head of their own take it from a file of weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from jobs.recipe import RecipeOptions, build_recipe
from jobs.recipe_file import RECIPES
from pipeline.core.errors import UserError
from pipeline.features.backbones import random_tensors
from pipeline.stages.kinds import extract_spec
from tests.builders import images, run, write_files

NAMES = sorted(path.stem for path in RECIPES.glob("*.toml"))
PUBLISHED = {
    "dir-resnet101-ap-gem",
    "cirtorch-resnet101-gem",
    "vgg16-rmac",
    "delf-r50",
    "sir-resnet152",
    "hash-resnet18",
    "sift-vlad",
    "sift-bow",
    "sift-fisher",
    "hsv-histogram",
    "mop",
}


def test_the_recipes_of_the_field_are_there() -> None:
    assert set(NAMES) >= PUBLISHED


@pytest.mark.parametrize("name", NAMES)
def test_a_named_recipe_is_sound(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Drawing a large network takes seconds and says nothing about the recipe.
    monkeypatch.setattr("jobs.recipe_weights.named_weights", lambda backbone, name, head: _tiny(backbone, name))
    built = build_recipe(RecipeOptions(recipe=name, weights=_weights(name)), head=None, source_kind="folder")
    assert extract_spec(built.recipe).label
    assert built.recipe.indexes
    assert (RECIPES / f"{name}.toml").read_text().startswith("# "), "a recipe says what it is"


def _weights(name: str) -> str | None:
    return "random:0" if "backbone" in (RECIPES / f"{name}.toml").read_text() else None


def _tiny(backbone: str, name: str) -> object:
    from jobs.weights import Weights

    return Weights(tensors={"x": torch.zeros(1)}, origin=name, backbone=backbone)


def headed(path: Path, dim: int) -> str:
    """A ResNet-18 with a linear layer under the name that checkpoints give it."""
    torch.manual_seed(0)
    tensors = {**random_tensors("resnet18", 0), "fc.weight": torch.randn(dim, 512), "fc.bias": torch.randn(dim)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return str(path)


def test_hash_codes_come_from_the_head_of_a_checkpoint(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", images(6))
    options = RecipeOptions(recipe="hash-resnet18", weights=headed(tmp_path / "net.safetensors", 48))
    report = run(source, tmp_path / "root", recipe=options)
    assert report.images["indexed"] == 6
    assert report.recipe.dtype == "binary"
    (path,) = [p for p in (tmp_path / "root" / "indexes").rglob("*") if p.is_file() and p.suffix == ".safetensors"]
    assert path.stat().st_size < 4000


def test_an_embedding_network_without_its_head_is_refused(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", images(2))
    options = RecipeOptions(recipe="sir-resnet152", backbone="resnet18", weights="random:0")
    with pytest.raises(UserError, match=r"projection\.weight"):
        run(source, tmp_path / "root", recipe=options)
    options = RecipeOptions(
        recipe="sir-resnet152", backbone="resnet18", weights=headed(tmp_path / "net.safetensors", 24)
    )
    report = run(source, tmp_path / "root", recipe=options)
    assert report.images["indexed"] == 2
