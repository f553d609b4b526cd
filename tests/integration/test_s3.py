"""The main job with everything in S3: source, root, snapshots, search."""

from __future__ import annotations

import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from jobs import cli
from jobs.progress import Reporter
from jobs.verify import verify
from pipeline.core.errors import ConflictError, ExistsError, IntegrityError, UserError
from pipeline.core.storage import open_store
from pipeline.publish.catalog import Catalog
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.sources._detect import detect
from pipeline.stages.extract import ExtractTask
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


def test_i14_no_secret_is_in_anything_that_comes_out(
    bucket: str, ceph: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store = open_store(f"{bucket}/images")
    for name, data in images(3).items():
        store.write(name, data)
    source, root = f"{bucket}/images?endpoint={ceph}", f"{bucket}/root?endpoint={ceph}"
    arguments = ["--backbone", "squeezenet1_1", "--weights", "random:0", "--resize", "longest:64"]
    assert cli.run(["index", source, root, *arguments]) == 0
    assert cli.run(["status", root, "--json"]) == 0
    task = ExtractTask(root=root, location=source, recipe=Catalog(open_store(root)).require_head().recipe)
    assert b"testsecret" not in pickle.dumps(task)
    assert b"testsecret" not in pickle.dumps(open_store(root))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-canary-secret")
    fsspec.filesystem("s3").clear_instance_cache()
    assert cli.run(["index", source, root, "--json"]) == 1
    assert cli.run(["status", f"{bucket}/root?endpoint={ceph}&X-Amz-Signature=canary-in-url"]) == 2
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
    fsspec.filesystem("s3").clear_instance_cache()
    told = capfd.readouterr()
    assert "access denied" in told.err
    assert "Traceback" not in told.err
    for text in (told.out, told.err):
        assert not re.search("testsecret|canary", text)
    published = open_store(root)
    assert not [e.path for e in published.list() if re.search(b"testsecret|canary", published.read(e.path))]


def test_i14_credentials_in_a_location_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["index", "s3://key:canary@bucket/images", "s3://bucket/root"]) == 2
    told = capsys.readouterr()
    assert "canary" not in told.out + told.err
    assert "holds credentials" in told.err


def test_a_large_object_is_read_by_ranges_of_one_version(bucket: str) -> None:
    store = open_store(bucket)
    data = np.random.default_rng(0).integers(0, 256, 20 << 20, dtype=np.uint8).tobytes()
    store.write("big", data)
    with store.open("big") as file:
        assert file.read(10) == data[:10]
        file.seek(17 << 20)
        assert file.read(5 << 20) == data[17 << 20 :]
        file.seek(0)
        assert file.read() == data
    with store.open("big") as file:
        file.read(1)
        store.write("big", data[::-1])
        file.seek(17 << 20)
        with pytest.raises(IntegrityError, match="replaced while it was being read"):
            file.read(1)


def test_a_listing_of_many_pages_is_in_order(bucket: str) -> None:
    store = open_store(f"{bucket}/many")
    names = sorted((f"{n % 7}/é{n:05d}" for n in range(1100)), key=str.encode)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.write(name, b""), names))
    assert [entry.path for entry in store.list()] == names
    assert [entry.path for entry in store.list("3")] == [name for name in names if name.startswith("3/")]


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
    with pytest.raises(UserError, match="the bucket does not exist") as caught:
        detect("s3://no-such-bucket-anywhere/x")
    assert "\n" not in str(caught.value)
