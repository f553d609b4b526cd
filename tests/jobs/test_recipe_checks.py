"""What a run refuses before it reads an image; each refusal is one line that names the option."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from jobs.recipe import RecipeOptions
from pipeline.core.errors import UserError
from tests.builders import QUICK, images, run, tar_bytes, write_files


def whitening(path: Path, dim: int) -> str:
    save_file({"mean": np.zeros(dim, "f4"), "projection": np.eye(dim, 4, dtype="f4")}, path)
    return str(path)


def refuses(tmp_path: Path, match: str, recipe: RecipeOptions, **more: Any) -> None:
    """An index of the recipe is refused, and nothing of it lies in ROOT."""
    source, root = write_files(tmp_path / "src", images(6)), tmp_path / "root"
    with pytest.raises(UserError, match=match):
        run(source, root, recipe=recipe, **more)
    written = [path for path in root.rglob("*") if path.is_file() and "leases" not in path.parts]
    assert not [path for path in written if path.suffix in (".parquet", ".safetensors")], "nothing was extracted"


def test_more_dimensions_than_the_extractor_gives_are_refused(tmp_path: Path) -> None:
    refuses(tmp_path, "--dims 600: is not between 1 and 512", replace(QUICK, whiten="pca", dims=600))


def test_more_dimensions_than_there_are_images_are_refused(tmp_path: Path) -> None:
    match = "--dims 6: cannot be fitted: the sample of 6 images supports 5 dimensions; index more images"
    refuses(tmp_path, match, replace(QUICK, whiten="pca", dims=6))


def test_a_whitening_for_other_descriptors_is_refused(tmp_path: Path) -> None:
    file = whitening(tmp_path / "w.safetensors", 128)
    refuses(
        tmp_path, "takes 128 dimensions.*gives 512; give one that fits with --whiten FILE", replace(QUICK, whiten=file)
    )


def test_a_whitening_of_the_head_that_fits_no_more_is_asked_for_again(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(6)), tmp_path / "root"
    first = run(source, root, recipe=replace(QUICK, whiten=whitening(tmp_path / "w.safetensors", 512)))
    with pytest.raises(UserError, match=r"takes 512 dimensions.*--whiten none"):
        run(source, root, recipe=RecipeOptions(backbone="alexnet"))
    assert run(source, root, recipe=RecipeOptions()).recipe == first.recipe


def test_an_index_that_has_no_room_is_refused(tmp_path: Path) -> None:
    refuses(tmp_path, "memory budget", replace(QUICK, indexes=("lsh",)), memory_bytes=40)


@pytest.mark.parametrize(
    ("table", "match"),
    [("[indexes.ivfpq]\nm = 7\n", "is no code size"), ("[indexes.lsh]\nnbits = 12\n", "multiple of 8")],
)
def test_settings_of_an_index_that_cannot_be_are_refused(tmp_path: Path, table: str, match: str) -> None:
    text = '[extractor]\nkind = "pooled"\nbackbone = "squeezenet1_1"\nweights = "random:0"\nresize = "longest:64"\n'
    (tmp_path / "r.toml").write_text(text + table)
    refuses(tmp_path, match, RecipeOptions(recipe=str(tmp_path / "r.toml")))


def test_an_encoding_that_is_too_long_is_refused(tmp_path: Path) -> None:
    text = '[extractor]\nkind = "sift"\n[encode]\nmethod = "vlad"\nwords = 2048\n[indexes.flat]\n'
    (tmp_path / "r.toml").write_text(text)
    refuses(tmp_path, "262144 dimensions", RecipeOptions(recipe=str(tmp_path / "r.toml")))


def test_settings_that_are_wrong_for_any_number_of_images_are_refused_for_containers_too(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", {"a.tar": tar_bytes(images(5))}), tmp_path / "root"
    (tmp_path / "r.toml").write_text('[extractor]\nkind = "histogram"\n[indexes.lsh]\nnbits = 12\n')
    with pytest.raises(UserError, match="multiple of 8"):
        run(source, root, recipe=RecipeOptions(recipe=str(tmp_path / "r.toml")))
    assert not list(root.rglob("*.parquet"))


def test_settings_that_only_the_number_of_images_decides_are_left_to_it_for_containers(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", {"a.tar": tar_bytes(images(90))}), tmp_path / "root"
    (tmp_path / "r.toml").write_text('[extractor]\nkind = "histogram"\n[indexes.ivfpq]\nnprobe = 2\n')
    report = run(source, root, recipe=RecipeOptions(recipe=str(tmp_path / "r.toml")))
    assert report.images["indexed"] == 90
