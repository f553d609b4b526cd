"""Images without a usable descriptor, from indexing to the query: rejects with a reason, one line for the user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.recipe import RecipeOptions
from pipeline.core.errors import UserError
from pipeline.core.local import LocalStore
from pipeline.publish.catalog import Catalog
from pipeline.rejects import read_rejects
from pipeline.search.query import QueryExtractor
from tests.builders import QUICK, encoded, images, jpeg, run, write_files

FLAT = encoded(Image.new("RGB", (64, 48), (9, 90, 200)))


def reasons(root: Path) -> dict[str, str]:
    found = {}
    for path in root.glob("descriptors/**/*.parquet"):
        if "reason" in (names := _columns(path)):
            assert names
            found.update({reject.key: reject.reason for reject in read_rejects(path)})
    return found


def _columns(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    names: list[str] = pq.read_schema(path).names
    return names


def extractor(root: Path) -> QueryExtractor:
    store = LocalStore(str(root))
    head = Catalog(store).head()
    assert head is not None
    return QueryExtractor(store, head.recipe, torch.device("cpu"))


@pytest.mark.parametrize("whiten", ["none", "pca"])
def test_an_image_of_one_colour_has_no_gradients_and_is_said_to(tmp_path: Path, whiten: str) -> None:
    source = write_files(tmp_path / "src", {**images(6), "flat.png": FLAT})
    (tmp_path / "hog.toml").write_text('[extractor]\nkind = "hog"\nside = 64\n')
    options = RecipeOptions(recipe=str(tmp_path / "hog.toml"), indexes=("flat",), whiten=whiten)
    report = run(source, tmp_path / "root", recipe=options, files=4)
    assert (report.images["indexed"], report.images["rejected"]) == (6, 1)
    assert [reason.reason for reason in report.reject_reasons] == ["the descriptor is zero, the image has one colour"]
    assert set(reasons(tmp_path / "root").values()) == {"the descriptor is zero, the image has one colour"}
    with pytest.raises(UserError, match=r"^flat\.png: the descriptor is zero, the image has one colour; give another"):
        extractor(tmp_path / "root").describe(FLAT, "flat.png")


def test_an_exponent_that_overflows_gives_rejects_and_no_rows_of_nan(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", images(4))
    report = run(source, tmp_path / "root", recipe=replace(QUICK, gem_p=80.0))
    rejected = reasons(tmp_path / "root")
    assert report.images["rejected"] == len(rejected)
    assert report.images["indexed"] + len(rejected) == 4
    assert set(rejected.values()) <= {"the descriptor is not finite"}


def test_a_query_is_decoded_by_the_settings_of_the_index(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", images(3))
    run(source, tmp_path / "root", recipe=replace(QUICK, max_pixels=64 * 48))
    one = extractor(tmp_path / "root")
    assert np.isfinite(one.vector(jpeg(1), "q")).all()
    with pytest.raises(UserError, match=r"larger than 0\.003072 megapixels"):
        one.describe(jpeg(1, 65, 48), "q")
    with pytest.raises(UserError, match=r"larger than 0\.003072 megapixels"):
        one.describe(jpeg(1, 65, 48), "q", (0, 0, 20, 20))


def test_new_recipes_convert_colours_and_old_ones_go_on_as_they_are(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", images(3))
    run(source, tmp_path / "root")
    head = Catalog(LocalStore(str(tmp_path / "root"))).head()
    assert head is not None
    stated = head.recipe.extractor.to_json()
    assert (stated["colour"], stated["grey16"]) == ("srgb", "scaled")
