"""What servers and networks do wrong, at every kind of request: the run ends as an undisturbed one, or says why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.verify import verify
from pipeline.core import s3
from pipeline.core.errors import AccessError, SightlineError
from pipeline.core.storage import open_store
from pipeline.publish.leases import LeaseTimes
from tests.builders import tar_bytes
from tests.life import RECIPE, Life, quiet, toy_kinds
from tests.s3_proxy import Fault, Proxy, proxy_to

pytestmark = pytest.mark.s3

REQUESTS = {
    "list the source": ("GET", "list-type=2"),
    "read a shard": ("GET", "/src/a.tar"),
    "stat a shard": ("HEAD", "/src/a.tar"),
    "write descriptors": ("PUT", "/descriptors/"),
    "write a manifest": ("PUT", "/manifests/"),
    "write an index shard": ("PUT", "/indexes/"),
    "record a shard": ("PUT", ".json"),
    "commit": ("PUT", "/snapshots/"),
    "read descriptors": ("GET", "/descriptors/"),
    "serve an index shard": ("GET", "/indexes/"),
    "read a snapshot": ("GET", "/snapshots/"),
    "let go of the lease": ("DELETE", "/leases/"),
}
PASSING = ("503", "500", "429", "timeout before", "timeout after", "reset", "lying")
READS = ("short", "flip", "drip")


@pytest.fixture(scope="module")
def proxy(ceph: str) -> Iterator[Proxy]:
    with proxy_to(ceph, pause=1.5) as made:
        yield made


@pytest.fixture
def life(bucket: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Life]:
    """A source of two tars behind the proxy; requests time out within a second."""
    monkeypatch.setattr(s3, "TIMEOUTS", replace(s3.TIMEOUTS, read=1))
    proxy.faults.clear()
    for name in "ab":
        members = {f"{name}{number}.jpg": f"image {name}{number}".encode() * 50 for number in range(3)}
        open_store(f"{bucket}/src").write(f"{name}.tar", tar_bytes(members))
    (tmp_path / "toy.toml").write_text(RECIPE)
    behind = f"?endpoint={proxy.endpoint}"
    with toy_kinds():
        yield Life(
            source=f"{bucket}/src{behind}",
            root=f"{bucket}/root{behind}",
            recipe=str(tmp_path / "toy.toml"),
            kind="tar",
            times=LeaseTimes(beat=1000.0, watch=0.0, poll=0.01),
        )


def published(life: Life, *, searched: bool = True) -> list[str]:
    """Index and read everything back; return what is live."""
    report = life.index()
    assert (report.exit_code, report.set_aside) == (0, {})
    life.check(thorough=searched)
    return sorted(life.live())


KEYS = [f"{name}.tar/{name}{number}.jpg" for name in "ab" for number in range(3)]


PAIRS = [
    (kind, request_kind)
    for kind in PASSING
    for request_kind, (method, _) in REQUESTS.items()
    if kind not in ("reset", "lying") or method == "GET"  # those are of an answer with a body
]


@pytest.mark.parametrize(("kind", "request_kind"), PAIRS)
def test_what_can_pass_is_tried_again_and_changes_nothing(
    life: Life, proxy: Proxy, kind: str, request_kind: str
) -> None:
    fault = Fault(kind, *REQUESTS[request_kind])
    proxy.faults.append(fault)
    assert published(life, searched=request_kind.startswith(("read", "serve"))) == KEYS
    assert fault.met == 1, "the fault was met"
    assert life.catalog.versions() == [1], "I4: the commit happened once"


@pytest.mark.parametrize("request_kind", ["read a shard", "read descriptors", "serve an index shard"])
@pytest.mark.parametrize("kind", READS)
def test_i7_bytes_that_change_on_their_way_are_never_used(
    life: Life, proxy: Proxy, kind: str, request_kind: str
) -> None:
    fault = Fault(kind, *REQUESTS[request_kind])
    proxy.faults.append(fault)
    if (kind, request_kind) == ("flip", "read a shard"):
        # Nothing says what the bytes of a source should be, except for the archive's own headers.
        report = life.index()
        assert report.images["seen"] in (0, 3, 6)
    else:
        assert published(life) == KEYS
    assert fault.met == 1


@pytest.mark.parametrize("request_kind", ["read a shard", "write descriptors", "commit", "list the source"])
def test_expired_credentials_end_the_run_in_one_line_and_lose_nothing(
    life: Life, proxy: Proxy, request_kind: str
) -> None:
    proxy.faults.append(Fault("403", *REQUESTS[request_kind]))
    with pytest.raises(AccessError, match="expired") as caught:
        life.index()
    assert "\n" not in str(caught.value)
    assert "testsecret" not in str(caught.value)
    assert published(life) == KEYS


def test_a_server_that_stays_down_is_said_to_be_down(life: Life, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.core.retry.RetryPolicy.pause", lambda *_: 0.0)
    proxy.faults.append(Fault("503", "PUT", "/snapshots/", times=1000))
    with pytest.raises(SightlineError, match="nothing was deleted"):
        life.index()
    proxy.faults.clear()
    assert published(life) == KEYS


@pytest.mark.parametrize("kind", ["503", "500", "timeout before", "timeout after"])
def test_deleting_is_tried_again(life: Life, proxy: Proxy, kind: str) -> None:
    life.index()
    open_store(life.source).delete("a.tar")
    life.index()
    proxy.faults.append(Fault(kind, "DELETE", "/indexes/"))
    told = life.expire()
    assert told["complete"]
    life.check()
    assert verify(life.root, quiet()).faults == ()
