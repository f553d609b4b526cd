from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.delete import EditOptions, delete
from pipeline.core.errors import UserError
from pipeline.search.augment import Augmented
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.search.expand import augment, expand
from tests.builders import images, run, write_files


def test_a_database_is_augmented_as_dir_does_it_and_then_queried(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(12)), tmp_path / "root"
    run(source, root)
    delete(EditOptions(root=str(root), keys=("0005.jpg",)))
    with SearchIndex.open(str(root)) as index:
        live = index.live()
        plain = index.stored.vectors(live.file, live.row)
        assert plain.shape[0] == 11
        database = Augmented(index, 3, 3.0)
        expected = augment(plain, 3, 3.0)
        np.testing.assert_allclose(database.vectors, expected, atol=1e-6)
        hits = database.find(plain[:2], SearchOptions(k=4, expand=(3, 3.0)))
        near = np.argsort(-(plain[:2] @ expected.T), axis=1, kind="stable")[:, :3]
        scores = np.sort(expand(plain[:2], expected[near], 3.0) @ expected.T, axis=1)[:, ::-1][:, :4]
        np.testing.assert_allclose([[hit.score for hit in found] for found in hits], scores, atol=1e-5)
        assert all(hit.key != "0005.jpg" for found in hits for hit in found)
        assert [found[0].score for found in database.find(plain[:2], SearchOptions(k=1))] == pytest.approx(
            (plain[:2] @ expected.T).max(axis=1).tolist(), abs=1e-6
        )
        with pytest.raises(UserError, match="vectors alone"):
            database.find(plain[:2], SearchOptions(verify=3))
