from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.delete import EditOptions, delete
from pipeline.core.storage import open_store
from pipeline.evaluate.sample import live_images, stored_vectors
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import EMPTY, Lists, load_lists
from pipeline.search.engine import SearchIndex
from tests.builders import images, run, write_files
from tests.integration.test_local import recipe, textures


@pytest.fixture
def root(tmp_path: Path) -> Path:
    run(write_files(tmp_path / "src", images(40)), tmp_path / "root", files=5)
    return tmp_path / "root"


def lists_of(root: Path) -> Lists:
    catalog = Catalog(open_store(str(root)))
    return load_lists(catalog, catalog.require_head())


def test_a_sample_is_of_different_images_and_the_same_each_time(root: Path) -> None:
    lists = lists_of(root)
    drawn, again, other = (live_images(lists, 12, seed) for seed in (1, 1, 2))
    places = list(zip(drawn.file.tolist(), drawn.row.tolist(), strict=True))
    assert len(set(places)) == len(places) == 12
    assert places == sorted(places)
    assert places == list(zip(again.file.tolist(), again.row.tolist(), strict=True))
    assert places != list(zip(other.file.tolist(), other.row.tolist(), strict=True))
    # 12 images are drawn from files that hold twice as many: five of eight.
    assert len(set(drawn.file.tolist())) <= 5


def test_what_is_wanted_and_not_there_is_everything_that_is_live(root: Path) -> None:
    delete(EditOptions(root=str(root), keys=("0003.jpg", "0017.jpg")))
    with SearchIndex.open(str(root)) as index:
        drawn, live = live_images(lists_of(root), 1000, 0), index.live()
        assert len(drawn) == 38
        assert np.array_equal(drawn.file, live.file)
        assert np.array_equal(drawn.row, live.row)
        keys = {name.key for name in index.stored.names(drawn.file, drawn.row)}
    assert keys == set(images(40)) - {"0003.jpg", "0017.jpg"}


def test_vectors_are_drawn_from_what_is_stored(root: Path) -> None:
    assert len(stored_vectors(lists_of(root), 1000, 0)) == 40
    assert len(stored_vectors(lists_of(root), 7, 0)) == 7


def test_nothing_is_drawn_from_nothing() -> None:
    assert len(live_images(EMPTY, 5, 0)) == len(stored_vectors(EMPTY, 5, 0)) == 0


def test_images_of_many_local_descriptors_are_as_many_as_wanted(tmp_path: Path) -> None:
    """A file that holds rows enough may hold images too few."""
    text = '[extractor]\nkind = "sift"\nfeatures = 40\n[indexes.flat]\n'
    run(write_files(tmp_path / "src", textures(10)), tmp_path / "root", recipe=recipe(tmp_path, text), files=2)
    for seed in range(6):
        assert len(live_images(lists_of(tmp_path / "root"), 5, seed)) == 5
