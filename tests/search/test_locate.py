"""Objects located in images that are indexed at a fraction of their size, and in those too large for it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.query import QueryOptions, query
from pipeline.core.errors import UserError
from pipeline.search.engine import SearchOptions
from tests.builders import QUICK, jpeg, picture, run, write_files
from tests.serve.served import refused, served


def large(seed: int) -> bytes:
    """A JPEG of 7.7 megapixels, of which reduced decoding takes at most 1.9."""
    out = io.BytesIO()
    picture(seed, 3200, 2400).save(out, "JPEG", quality=60)
    return out.getvalue()


def rooted(folder: Path, most: int) -> Path:
    files = {"large.jpg": large(1), "small.jpg": jpeg(2)}
    recipe = replace(QUICK, decoding="reduced", max_pixels=most)
    images = run(write_files(folder / "src", files), folder / "root", recipe=recipe).images
    assert (images["indexed"], images["rejected"]) == (2, 0)
    return folder / "root"


def test_an_image_larger_than_the_bound_that_is_indexed_reduced_is_located_too(tmp_path: Path) -> None:
    root = rooted(tmp_path, 2_500_000)
    with served(root) as site:
        for answer in (site.image(large(1), locate="true"), site.client.get("/similar/small.jpg?locate=true")):
            assert answer.status_code == 200, answer.text
            hit = answer.json()["hits"][0]
            x, y, width, height = hit["box"]
            assert (hit["key"], hit["width"], hit["height"]) == ("large.jpg", 3200, 2400)
            assert 0 <= x < x + width <= 3200
            assert 0 <= y < y + height <= 2400
        assert site.client.get("/similar/large.jpg?locate=true").status_code == 200


def test_a_query_too_large_to_be_located_is_refused_in_one_line(tmp_path: Path) -> None:
    root = rooted(tmp_path, 1_000_000)
    with served(root) as site:
        refused(site.image(large(1), locate="true"), 400, "query: larger than 1 megapixels: 3200x2400")
        refused(site.client.get("/similar/large.jpg?locate=true"), 400, "larger than 1 megapixels")
        assert site.image(large(1)).json()["hits"][0]["key"] == "large.jpg"
    asked = QueryOptions(root=str(root), keys=["small.jpg"], search=SearchOptions(k=1), locate=True)
    with pytest.raises(UserError, match=r"large\.jpg: cannot be decoded to locate in it: larger than 1 megapixels"):
        query(asked)
