from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.demo_page import DemoPage, Row, Step, thumbnail, write_page
from jobs.demo_shards import (
    SCENES,
    chance_map,
    photograph_items,
    photograph_scenes,
    relevant_keys,
    split_last,
    tar_items,
)
from jobs.photographs import photograph, photographs
from jobs.scene_views import member_name, render_view, view_bytes, write_queries, write_tar
from jobs.scenes import SIZE, render_scene
from tests.builders import jpeg


def test_a_scene_is_a_function_of_its_seed_and_number() -> None:
    assert render_scene(0, 3).tobytes() == render_scene(0, 3).tobytes()
    assert render_scene(0, 3).tobytes() != render_scene(1, 3).tobytes()
    assert render_scene(0, 3).size == SIZE


@pytest.mark.parametrize("scene", range(8))
def test_every_family_draws_something_with_structure(scene: int) -> None:
    pixels = np.asarray(render_scene(0, scene), dtype=float)
    assert pixels.std() > 15


def test_views_of_a_scene_differ_and_repeat_themselves() -> None:
    first, second = render_view(0, 5, 1), render_view(0, 5, 2)
    assert first.tobytes() == render_view(0, 5, 1).tobytes()
    assert first.size != second.size or first.tobytes() != second.tobytes()


def test_photographs_are_those_that_are_installed_and_are_seen_like_scenes(tmp_path: Path) -> None:
    assert {"coffee", "china", "grace_hopper"} <= set(photographs())
    assert all(photograph(name).size == SIZE and photograph(name).mode == "RGB" for name in photographs())
    (item,) = photograph_items(tmp_path, range(1, 4))
    keys = [f"{item.path.name}/{member_name(*pair)}" for pair in item.views]
    relevant = relevant_keys((0, 3))
    assert keys == [key for scene in photograph_scenes() for key in relevant[scene]]
    assert view_bytes(0, photograph_scenes()[4], 1) != view_bytes(0, photograph_scenes()[4], 2)


def test_shards_are_equal_to_the_byte_from_run_to_run(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / name, 0, [(0, 1), (1, 1)])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_ground_truth_names_what_the_shards_hold(tmp_path: Path) -> None:
    relevant = relevant_keys((0, 3))
    held = {
        f"{item.path.name}/{member_name(*v)}"
        for item in tar_items(tmp_path, 0, range(180), range(1, 4))
        for v in item.views
    }
    named = {key for scene in range(180) for key in relevant[scene]}
    assert named == held - {f"scenes-0000.tar/{member_name(0, 3)}"}
    assert len(relevant) == SCENES + len(photographs())
    truth = write_queries(tmp_path / "queries", 0, [0, 1], relevant)
    assert json.loads(truth.read_text()) == {member_name(scene, 0): relevant[scene] for scene in (0, 1)}
    assert (tmp_path / "queries" / member_name(1, 0)).read_bytes() == view_bytes(0, 1, 0)


def test_the_late_shards_hold_the_last_scenes(tmp_path: Path) -> None:
    split_last(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scenes-0009.tar", "scenes-0009b.tar"]


def test_chance_is_the_mean_over_random_rankings() -> None:
    generator = np.random.default_rng(0)
    total = 0.0
    for _ in range(4000):
        ranks = np.sort(generator.choice(60, 3, replace=False)) + 1
        total += float(np.mean(np.arange(1, 4) / ranks))
    assert chance_map(60, 3) == pytest.approx(total / 4000, rel=0.03)
    assert chance_map(599, 3) <= 0.02


def test_the_page_is_one_file_and_names_are_text(tmp_path: Path) -> None:
    nasty = "<img onerror=alert(1)>.jpg"
    picture = thumbnail(jpeg(1, 400, 300), nasty, 0.5, right=True)
    page = DemoPage(
        images=1,
        scenes=1,
        photographs=1,
        views=1,
        snapshot=1,
        descriptor="gem of x (random:0)",
        honest="Random.",
        mean_average_precision=0.5,
        precision_at_1=1.0,
        chance=0.1,
        colours=0.2,
        approximate=[("lsh", 0.4)],
        seconds=1.0,
        steps=[Step(command="sightline <x>", outcome="done")],
        rows=[Row(query=picture, hits=[picture])],
    )
    write_page(tmp_path / "out" / "index.html", page)
    text = (tmp_path / "out" / "index.html").read_text()
    assert nasty not in text
    assert "&lt;img onerror" in text
    assert "sightline &lt;x&gt;" in text
    assert "http" not in text.replace("http-equiv", "")
    assert "✓ same" in text


def test_thumbnails_are_small() -> None:
    import base64
    import io

    with Image.open(io.BytesIO(base64.b64decode(thumbnail(jpeg(1, 900, 700), "x").data))) as image:
        assert max(image.size) <= 240
