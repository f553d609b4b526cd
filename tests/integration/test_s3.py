"""The main job with everything in S3: source, root, snapshots, search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jobs.progress import Reporter
from jobs.verify import verify
from pipeline.core.errors import ConflictError, ExistsError, UserError
from pipeline.core.storage import open_store
from pipeline.publish.catalog import Catalog
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.sources._detect import detect
from tests.builders import QUICK, images, run, tar_bytes

pytestmark = pytest.mark.s3


@pytest.mark.parametrize("layout", ["folder", "tar"])
def test_the_main_job_runs_in_s3_as_on_disk(bucket: str, layout: str) -> None:
    source, root = f"{bucket}/images", f"{bucket}/published/root"
    store = open_store(source)
    files = {"a.tar": tar_bytes(images(4)), "b.tar": tar_bytes(images(4, start=4))} if layout == "tar" else images(8)
    for name, data in files.items():
        store.write(name, data)
    assert detect(source) == layout
    recipe = replace(QUICK, indexes=("flat", "ivfpq", "lsh"), whiten="pca", dims=4)
    assert run(source, root, recipe=recipe).images["indexed"] == 8
    assert not run(source, root, recipe=recipe).published
    store.delete(min(files))
    report = run(source, root, recipe=recipe)
    assert (report.snapshot, report.images["removed"]) == (2, 4 if layout == "tar" else 1)
    assert verify(root, Reporter()).faults == ()
    with SearchIndex.open(root) as index:
        hits = index.search(np.eye(1, index.dim, dtype=np.float32), SearchOptions(k=20, index="ivfpq"))[0]
        assert len(hits) == index.images == report.images["indexed"]
        assert all(hit.uri.startswith(source) for hit in hits)


def test_i14_no_secret_is_in_anything_published(bucket: str) -> None:
    store = open_store(f"{bucket}/images")
    for name, data in images(3).items():
        store.write(name, data)
    run(f"{bucket}/images", f"{bucket}/root")
    root = open_store(f"{bucket}/root")
    assert not [entry.path for entry in root.list() if b"testsecret" in root.read(entry.path)]


def test_i4_one_of_two_creators_of_a_name_wins(bucket: str) -> None:
    store = open_store(bucket + "/x")
    store.put_if_absent("snapshots/1.json", b"first")
    with pytest.raises(ExistsError):
        store.put_if_absent("snapshots/1.json", b"second")
    assert store.read("snapshots/1.json") == b"first"


def test_i4_a_lost_race_is_a_conflict(bucket: str) -> None:
    store = open_store(f"{bucket}/images")
    for name, data in images(3).items():
        store.write(name, data)
    run(f"{bucket}/images", f"{bucket}/root")
    catalog = Catalog(open_store(f"{bucket}/root"))
    head = catalog.require_head()
    catalog.commit(head.model_copy(update={"version": 2, "writer": "one"}))
    with pytest.raises(ConflictError, match="one"):
        catalog.commit(head.model_copy(update={"version": 2, "writer": "two"}))


def test_a_bucket_that_is_not_there_is_one_line(bucket: str) -> None:
    with pytest.raises(UserError, match="nothing, or does not exist") as caught:
        detect("s3://no-such-bucket-anywhere/x")
    assert "\n" not in str(caught.value)
