"""The policies of infra/aws, given to a user of a real S3 server: what they allow is enough, the rest is denied."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import botocore.session
import fsspec
import pytest

from jobs.compact import CompactOptions, compact
from jobs.expire import ExpireOptions, expire
from jobs.progress import Reporter
from jobs.verify import verify
from pipeline.core.errors import AccessError, SightlineError
from pipeline.core.storage import discard, open_store, unfinished
from pipeline.publish.leases import FOLDER
from pipeline.search.live import LiveOptions
from pipeline.serve.models import Ask
from pipeline.serve.options import ServeOptions
from pipeline.serve.service import Service
from tests.builders import images, run

pytestmark = pytest.mark.s3
POLICIES = Path(__file__).parents[2] / "infra" / "aws"
Limit = Callable[[str], None]


@pytest.fixture
def limit(bucket: str, ceph: str, monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Go on as a user who has one policy and no other rights."""
    owner = {"aws_access_key_id": "testkey", "aws_secret_access_key": "testsecret"}
    admin = botocore.session.get_session().create_client("iam", endpoint_url=ceph, region_name="us-east-1", **owner)

    def become(policy: str) -> None:
        text = (POLICIES / f"{policy}.json").read_text().replace("BUCKET", bucket.removeprefix("s3://"))
        admin.put_user_policy(UserName="limited", PolicyName="sightline", PolicyDocument=text)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "limitedkey")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "limitedsecret")
        fsspec.filesystem("s3", skip_instance_cache=True).clear_instance_cache()

    return become


def test_a_run_and_its_upkeep_need_the_index_policy_only(bucket: str, limit: Limit) -> None:
    source, root = f"{bucket}/photos", f"{bucket}/index"
    store = open_store(source)
    for name, data in images(8).items():
        store.write(name, data)
    limit("index-policy")
    assert run(source, root).images["indexed"] == 8
    assert not run(source, root).published
    quiet = Reporter(io.StringIO())
    assert verify(root, quiet).faults == ()
    compact(CompactOptions(root=root), quiet)
    expire(ExpireOptions(root=root), quiet)
    # What a killed writer of a large object leaves behind.
    begun = fsspec.filesystem("s3", skip_instance_cache=True)
    begun.call_s3("create_multipart_upload", Bucket=bucket.removeprefix("s3://"), Key="index/large")
    left = list(unfinished(open_store(root)))
    assert [entry.path for entry in left] == ["large"]
    discard(open_store(root), left[0])
    assert list(unfinished(open_store(root))) == []
    for name in ("new.jpg", next(iter(images(1)))):
        with pytest.raises(AccessError):
            open_store(source).write(name, b"x")
    with pytest.raises(AccessError):
        open_store(source).delete(next(iter(images(1))))
    for elsewhere in (f"{bucket}/other", f"{bucket}/index-2"):
        with pytest.raises(AccessError):
            list(open_store(elsewhere).list())
        with pytest.raises(AccessError):
            open_store(elsewhere).write("x", b"")


def test_the_service_needs_the_serve_policy_only(bucket: str, limit: Limit) -> None:
    source, root = f"{bucket}/photos", f"{bucket}/index"
    store, pictures = open_store(source), images(8)
    for name, data in pictures.items():
        store.write(name, data)
    run(source, root)
    limit("serve-policy")
    options = ServeOptions(root=root, device="cpu", live=LiveOptions(every=0))
    with Service(options) as service:
        name, data = next(iter(pictures.items()))
        found = service.by_image(data, None, Ask(k=3))
        assert len(found.hits[0]) == 3
        assert service.picture(found.hits[0][0].key, 256)[0].startswith(b"\xff\xd8"), name
        deadline = time.monotonic() + 30
        while not list(open_store(root).list(FOLDER)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert list(open_store(root).list(FOLDER)) == []
    with pytest.raises(AccessError):
        open_store(root).write("snapshots/00000009.json", b"{}")
    with pytest.raises(SightlineError):
        run(source, root)
