"""Whole objects are read without the library's work around each; what an answer means stays the library's to say."""

from __future__ import annotations

import base64
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from pipeline.core import s3
from pipeline.core.errors import AccessError, NotFoundError, ReadError, TransientError
from pipeline.core.retry import RetryingStore, RetryPolicy
from pipeline.core.s3 import S3Store
from pipeline.core.storage import Store, open_store
from tests.fake_s3 import FakeS3, fake_s3
from tests.s3_proxy import Fault, proxy_to

OURS = "sightline-reads"


@pytest.fixture
def fake(s3_credentials: None) -> Iterator[FakeS3]:
    with fake_s3() as made:
        made.objects.update({f"src/{name}.jpg": name.encode() * 1000 for name in "abcdef"})
        yield made


def gets(fake: FakeS3) -> list[tuple[str, bool]]:
    """Keys of the GETs so far, and whether the library made them: it numbers its requests."""
    return [(key, "amz-sdk-invocation-id" in headers) for method, key, headers in fake.headers if method == "GET"]


def test_one_read_goes_through_the_library_and_the_others_are_like_it(fake: FakeS3) -> None:
    store = open_store(fake.location("src", requester_pays="true"))
    for name in "abc":
        assert store.read(f"{name}.jpg") == name.encode() * 1000
    assert gets(fake) == [("src/a.jpg", True), ("src/b.jpg", False), ("src/c.jpg", False)]
    first, second = ({**headers} for method, _, headers in fake.headers[:2] if method == "GET")
    for name in ("amz-sdk-invocation-id", "amz-sdk-request", "accept"):
        first.pop(name)
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} <= {"authorization", "x-amz-date"}
    assert second["x-amz-request-payer"] == "requester"
    assert second["authorization"].split("/")[2:4] == ["us-east-1", "s3"]


def test_requests_without_credentials_are_not_signed(fake: FakeS3) -> None:
    store = open_store(fake.location("src", anonymous="true"))
    assert [store.read("a.jpg")[:1], store.read("b.jpg")[:1]] == [b"a", b"b"]
    assert all("authorization" not in headers for _, _, headers in fake.headers)
    assert gets(fake)[1] == ("src/b.jpg", False)


def test_keys_of_any_letters_are_read(fake: FakeS3) -> None:
    names = ["a b+c&d=e?f#g%h.jpg", "ü/€.jpg", "x//y.jpg", "semi;colon,(1)!'*~:@$.jpg", "tab\there.jpg"]
    fake.objects.update({f"src/{name}": name.encode() for name in names})
    store = open_store(fake.location("src"))
    assert store.read("a.jpg") == b"a" * 1000
    assert [store.read(name) for name in names] == [name.encode() for name in names]
    assert not any(by_library for _, by_library in gets(fake)[1:])


@pytest.mark.parametrize(
    ("code", "kind"),
    [("NoSuchKey", NotFoundError), ("AccessDenied", ReadError), ("InvalidObjectState", ReadError)]
    + [(code, AccessError) for code in ("ExpiredToken", "InvalidAccessKeyId", "RequestTimeTooSkewed")],
)
def test_what_is_refused_means_what_the_library_says(fake: FakeS3, code: str, kind: type[Exception]) -> None:
    store = open_store(fake.location("src"))
    store.read("a.jpg")
    fake.refuse["GET src/b.jpg"] = code
    with pytest.raises(kind):
        store.read("b.jpg")
    assert store.read("c.jpg") == b"c" * 1000


@pytest.mark.parametrize("kind", ["503", "500", "429", "reset", "lying", "timeout before", "drip"])
def test_what_can_pass_is_tried_again(fake: FakeS3, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "TIMEOUTS", replace(s3.TIMEOUTS, read=0.5))
    fake.objects["src/b.jpg"] = b"b" * 20_000
    with proxy_to(fake.endpoint, pause=1.0) as proxy:
        location = fake.location("src").replace(fake.endpoint, proxy.endpoint)
        store = open_store(location)
        assert isinstance(store, RetryingStore)
        assert isinstance(store.inner, S3Store)
        store.read("a.jpg")
        proxy.faults.append(Fault(kind, "GET", "src/b.jpg"))
        once = RetryingStore(store.inner, RetryPolicy(attempts=1))
        with pytest.raises(TransientError):
            once.read("b.jpg")
        proxy.faults.append(Fault(kind, "GET", "src/b.jpg"))
        assert RetryingStore(store.inner, RetryPolicy(attempts=2, base=0.01)).read("b.jpg") == b"b" * 20_000


def test_where_other_connections_fail_everything_goes_through_the_library(fake: FakeS3) -> None:
    with proxy_to(fake.endpoint, pause=0) as proxy:
        inner = S3Store("bucket/src", (("endpoint", proxy.endpoint),))
        store = RetryingStore(inner, RetryPolicy(attempts=2, base=0.001))
        assert store.read("a.jpg") == b"a" * 1000
        for _ in range(3):
            proxy.faults[:] = [Fault("timeout before", "GET", "src/b.jpg")]
            assert store.read("b.jpg") == b"b" * 1000
        fake.headers.clear()
        proxy.faults.clear()
        assert [store.read("c.jpg"), store.read("d.jpg")] == [b"c" * 1000, b"d" * 1000]
    assert gets(fake) == [("src/c.jpg", True), ("src/d.jpg", True)]


def test_bytes_that_are_not_those_of_the_stated_checksum_are_read_again(fake: FakeS3) -> None:
    data = fake.objects["src/b.jpg"]
    right = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    fake.stated["src/b.jpg"] = {"x-amz-checksum-crc32": right}
    with proxy_to(fake.endpoint, pause=0) as proxy:
        store: Store = open_store(fake.location("src").replace(fake.endpoint, proxy.endpoint))
        store.read("a.jpg")
        proxy.faults.append(Fault("flip", "GET", "src/b.jpg"))
        assert store.read("b.jpg") == data
        assert sum("b.jpg" in path for _, path in proxy.requests) == 2


def test_many_threads_begin_with_one_request_of_the_library(fake: FakeS3) -> None:
    fake.objects.update({f"src/{number}": str(number).encode() for number in range(200)})
    store = open_store(fake.location("src"))
    ready = threading.Barrier(16)

    def read(number: int) -> bytes:
        if number < 16:
            ready.wait(10)
        return store.read(str(number))

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(read, range(200))) == [str(number).encode() for number in range(200)]
    assert sum(by_library for _, by_library in gets(fake)) == 1
