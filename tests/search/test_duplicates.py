from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.delete import EditOptions, delete
from jobs.duplicates import DuplicatesOptions, duplicates, lines
from jobs.progress import Reporter
from jobs.recipe import RecipeOptions
from pipeline.core.errors import UserError
from tests.builders import QUICK, encoded, images, jpeg, run, write_files

ALL = RecipeOptions(**{**vars(QUICK), "indexes": ("flat", "ivfpq")})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    copies: dict[str, bytes] = {}
    for seed in (4, 8):
        with Image.open(io.BytesIO(jpeg(seed))) as opened:
            copies |= {f"copy-{seed}-{q}.jpg": encoded(opened.convert("RGB"), "JPEG", quality=q) for q in (80, 85)}
    source = write_files(tmp_path / "src", {**images(24), **copies})
    run(source, tmp_path / "root", recipe=ALL, files=7)
    return tmp_path / "root"


@pytest.mark.parametrize("kind", ["flat", "ivfpq"])
def test_copies_are_grouped_and_strangers_are_not(root: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "groups.parquet"
    # Random weights leave strangers alike as well: the threshold lies just below what recompression changes.
    options = DuplicatesOptions(root=str(root), threshold=0.998, index=kind, out=str(out))
    told = duplicates(options, Reporter(io.StringIO()))
    expected = [["0004.jpg", "copy-4-80.jpg", "copy-4-85.jpg"], ["0008.jpg", "copy-8-80.jpg", "copy-8-85.jpg"]]
    assert sorted(sorted(keys) for keys in told["largest"]) == expected
    assert (told["groups"], told["members"], told["images"]) == (2, 6, 28)
    table = pq.read_table(out).to_pydict()
    assert table["group"] == [0, 0, 0, 1, 1, 1]
    assert [table["similarity"][place] for place in (0, 3)] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert min(table["similarity"]) > 0.999
    assert "2 groups" in lines(told)[0]


def test_what_is_deleted_is_no_duplicate(root: Path) -> None:
    delete(EditOptions(root=str(root), keys=("copy-4-80.jpg", "copy-4-85.jpg")))
    told = duplicates(DuplicatesOptions(root=str(root), threshold=0.998), Reporter(io.StringIO()))
    assert [sorted(keys) for keys in told["largest"]] == [["0008.jpg", "copy-8-80.jpg", "copy-8-85.jpg"]]


def test_a_low_threshold_links_everything_and_none_is_refused(root: Path) -> None:
    everything = duplicates(DuplicatesOptions(root=str(root), threshold=1e-6, neighbours=12), Reporter(io.StringIO()))
    assert (everything["groups"], everything["members"]) == (1, 28)
    with pytest.raises(UserError, match="no cosine"):
        duplicates(DuplicatesOptions(root=str(root), threshold=0.0), Reporter(io.StringIO()))
    assert np.isfinite(everything["threshold"])
