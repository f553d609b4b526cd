"""What the service answers, and how it refuses."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.recipe import RecipeOptions
from pipeline.search.engine import SearchIndex
from pipeline.serve.models import parse_box
from tests.builders import QUICK, encoded, images, jpeg, picture, run, tar_bytes, write_files
from tests.serve.served import CALM, Served, refused, served, small_root

RECIPE = RecipeOptions(**{**vars(QUICK), "indexes": ("flat", "ivfpq")})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_root(tmp_path_factory.mktemp("serve"), recipe=RECIPE)


@pytest.fixture(scope="module")
def site(root: Path) -> Iterator[Served]:
    with served(root) as site:
        yield site


def test_an_uploaded_image_finds_itself(site: Served) -> None:
    answer = site.image(images(24)["0005.jpg"], k=3).json()
    assert (answer["snapshot"], answer["index"]) == (1, "flat")
    assert answer["query"] == {"width": 64, "height": 48}
    first = answer["hits"][0]
    assert (first["key"], first["width"], first["height"]) == ("0005.jpg", 64, 48)
    assert first["score"] == pytest.approx(1.0, abs=1e-3)
    assert len(answer["hits"]) == 3
    assert set(answer["seconds"]) == {"describe", "search"}


def test_a_box_is_a_part_of_the_image(site: Served) -> None:
    whole = site.image(images(24)["0005.jpg"]).json()
    part = site.image(images(24)["0005.jpg"], box="0,0,30,20").json()
    assert part["query"] == {"width": 64, "height": 48, "box": [0, 0, 30, 20]}
    assert part["hits"][0]["score"] < whole["hits"][0]["score"]


def test_an_indexed_image_finds_others(site: Served, root: Path) -> None:
    answer = site.client.get("/similar/0007.jpg", params={"k": 23, "index": "ivfpq"}).json()
    assert sorted(hit["key"] for hit in answer["hits"]) == sorted(set(images(24)) - {"0007.jpg"})
    with SearchIndex.open(str(root)) as index:
        live = index.live()
        x = index.stored.vectors(live.file, live.row)
        keys = [name.key for name in index.stored.names(live.file, live.row)]
    mine = x[keys.index("0007.jpg")]
    expected = [keys[place] for place in np.argsort(-(x @ mine)) if keys[place] != "0007.jpg"]
    assert [hit["key"] for hit in answer["hits"]] == expected
    part = site.client.get("/similar/0007.jpg", params={"box": "1,1,20,20", "k": 2}).json()
    assert part["query"]["key"] == "0007.jpg"
    assert len(part["hits"]) == 2


def test_vectors_are_searched_many_at_a_time(site: Served, root: Path) -> None:
    with SearchIndex.open(str(root)) as index:
        live = index.live().first(3)
        x = index.stored.vectors(live.file, live.row)
        keys = [name.key for name in index.stored.names(live.file, live.row)]
        recipe = index.snapshot.recipe.descriptor_id
    body = {"vectors": (7 * x).tolist(), "recipe": recipe, "ask": {"k": 1}}
    answer = site.client.post("/search/vectors", json=body).json()
    assert [hits[0]["key"] for hits in answer["results"]] == keys
    refused(site.client.post("/search/vectors", json={**body, "recipe": "another"}), 400, "made by recipe another")
    refused(site.client.post("/search/vectors", json={"vectors": [[1, 0]]}), 400, "2 dimensions")
    refused(site.client.post("/search/vectors", json={"vectors": [[1, 0], [1]]}), 400, "differ in length")
    refused(site.client.post("/search/vectors", json={"vectors": [[0.0] * x.shape[1]]}), 400, "no direction")
    kind = {"content-type": "application/json"}
    for size in (1e308, 1e-308):
        assert site.client.post("/search/vectors", json={"vectors": [[size] * x.shape[1]]}).status_code == 200
    refused(site.client.post("/search/vectors", content=b'{"vectors": [[NaN]]}', headers=kind), 422, "vectors")
    refused(site.client.post("/search/vectors", content=b"{", headers=kind), 422, "JSON")


def test_pictures_are_made_anew_and_not_sent_twice(site: Served) -> None:
    first = site.client.get("/images/0003.jpg", params={"size": 32})
    assert (first.status_code, first.headers["content-type"]) == (200, "image/jpeg")
    assert first.content != images(24)["0003.jpg"]
    again = site.client.get("/images/0003.jpg", params={"size": 32}, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_originals_that_are_gone_or_changed_are_not_shown(tmp_path: Path) -> None:
    root = small_root(tmp_path, 4)
    (tmp_path / "src" / "0001.jpg").unlink()
    (tmp_path / "src" / "0002.jpg").write_bytes(jpeg(77))
    with served(root) as site:
        refused(site.client.get("/images/0001.jpg"), 404, "no longer there")
        refused(site.client.get("/images/0002.jpg"), 404, "has changed")
        assert site.client.get("/images/0003.jpg").status_code == 200
        assert len(site.client.get("/similar/0001.jpg").json()["hits"]) == 3


@pytest.mark.parametrize("packed", [True, False])
def test_a_source_that_is_gone_costs_its_pictures_only(tmp_path: Path, packed: bool) -> None:
    files = images(5) if packed else {"a.tar": tar_bytes(images(5))}
    run(write_files(tmp_path / "src", files), tmp_path / "root")
    shutil.rmtree(tmp_path / "src")
    with served(tmp_path / "root") as site:
        assert site.image(images(5)["0001.jpg"]).json()["hits"][0]["key"].endswith("0001.jpg")
        refused(
            site.client.get("/images/" + ("" if packed else "a.tar/") + "0001.jpg"), 404, "no longer there|is no folder"
        )


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"k": 0}, 422, "k: .*greater than or equal to 1"),
        ({"k": "many"}, 422, "k: .*integer"),
        ({"k": 1000}, 400, "k 1000: is above 200"),
        ({"rerank": 99_999}, 400, "above 10000"),
        ({"index": "lsh"}, 400, "--index lsh: is not in this snapshot"),
        ({"box": "1,2,3"}, 422, "box"),
        ({"box": "100,100,5,5"}, 400, "lies outside the image of 64x48"),
        ({"verify": 5}, 400, "needs local descriptors"),
        ({"where": "year > 1"}, 400, "year"),
        ({"where": "key = 'a'; drop table x"}, 400, ""),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_reason(
    site: Served, fields: dict[str, object], status: int, words: str
) -> None:
    refused(site.image(jpeg(1), **fields), status, words)


def test_what_is_no_usable_image_is_refused(site: Served, root: Path) -> None:
    refused(site.image(b"GIF89a"), 400, "cannot identify|not an image|cannot be decoded")
    refused(site.image(b""), 400, "not an image")
    refused(site.image(jpeg(1, 640, 480)[:3000]), 400, "truncated")
    refused(site.client.post("/search", data={"k": 3}), 422, "image")
    refused(site.client.post("/search", content=b"\x00" * 100), 422, "image")
    with served(root, limits=replace(CALM, pixels=5000)) as small:
        refused(small.image(encoded(picture(1, 80, 80), "PNG")), 400, "6400 pixels, more than 5000")
        assert small.image(encoded(picture(1, 60, 60), "PNG")).status_code == 200


def test_unknown_keys_and_paths_are_not_found(site: Served) -> None:
    for path in ("/similar/none.jpg", "/images/none.jpg", "/images/0003.jpg/", "/images/../0003.jpg", "/nothing"):
        assert site.client.get(path).status_code == 404
    refused(site.client.get("/similar/none.jpg"), 404, "no image of snapshot 1")
    assert site.client.put("/search").status_code == 405


def test_the_page_and_the_documentation_need_nothing_from_elsewhere(site: Served) -> None:
    for path in (
        "/",
        "/page.css",
        "/page.js",
        "/api.js",
        "/box.js",
        "/copy.js",
        "/theme.js",
        "/grid.js",
        "/icon.svg",
        "/docs",
    ):
        response = site.client.get(path)
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
        external = re.findall(r"(?:src|href|url)\s*[=(]\s*['\"]?(?:https?:)?//[^'\")\s]+", response.text)
        assert not external, path
    paths = site.client.get("/openapi.json").json()["paths"]
    assert {"/search", "/similar/{key}", "/images/{key}", "/snapshot", "/healthz", "/readyz", "/metrics"} <= set(paths)


def test_what_the_service_does_is_counted_by_route(site: Served) -> None:
    site.client.get("/similar/0001.jpg")
    site.client.get("/similar/no-such-key-anywhere")
    text = site.client.get("/metrics").text
    assert re.search(r'requests_total\{route="/similar/\{key:key\}",status="404"\} [1-9]', text)
    assert 'sightline_serve_phase_seconds_count{phase="search"}' in text
    assert "sightline_serve_snapshot 1.0" in text
    assert "no-such-key" not in text


def test_every_answer_carries_its_headers(site: Served) -> None:
    for path in ("/", "/snapshot", "/nothing", "/images/0001.jpg"):
        headers = site.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers


def test_boxes_are_four_numbers() -> None:
    assert parse_box(" 1, 2.5,3 ,4") == (1.0, 2.5, 3.0, 4.0)
    assert parse_box("") is None
    for text in ("1,2,3", "1,2,3,4,5", "a,b,c,d", "1e400,1,1,1", "nan,1,1,1", "--1,1,1,1"):
        with pytest.raises(ValueError, match="four numbers"):
            parse_box(text)


def test_what_was_indexed_by_larger_bounds_is_shown_and_searched_with(tmp_path: Path) -> None:
    large = encoded(Image.new("L", (9000, 8000), 90), "PNG")
    source = write_files(tmp_path / "src", {"large.png": large, **images(3)})
    run(source, tmp_path / "root", recipe=replace(QUICK, max_pixels=100_000_000))
    with served(tmp_path / "root") as site:
        shown = site.client.get("/images/large.png", params={"size": 128})
        assert shown.status_code == 200
        assert Image.open(io.BytesIO(shown.content)).size == (128, 114)
        assert site.client.get("/similar/large.png", params={"box": "0,0,9000,8000"}).status_code == 200
        refused(site.image(large), 400, "72000000 pixels, more than")
