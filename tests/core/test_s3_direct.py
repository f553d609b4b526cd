"""Whole objects are read without the library's work around each; what an answer means stays the library's to say."""

from __future__ import annotations

import base64
import hashlib
import shutil
import ssl
import subprocess
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from botocore.exceptions import SSLError
from fsspec.asyn import sync

from pipeline.core import s3
from pipeline.core.errors import AccessError, NotFoundError, ReadError, TransientError
from pipeline.core.retry import RetryingStore, RetryPolicy
from pipeline.core.s3 import TIMEOUTS, S3Store
from pipeline.core.s3_direct import DirectReads
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


@pytest.mark.parametrize("failures", [1, 2])
def test_connections_that_fail_now_and_then_are_tried_again(fake: FakeS3, failures: int) -> None:
    """What counts is how many fail in a row."""
    with proxy_to(fake.endpoint, pause=0) as proxy:
        inner = S3Store("bucket/src", (("endpoint", proxy.endpoint),))
        store = RetryingStore(inner, RetryPolicy(attempts=2, base=0.001))
        store.read("a.jpg")
        for _ in range(2):
            for _ in range(failures):
                proxy.faults[:] = [Fault("timeout before", "GET", "src/b.jpg")]
                assert store.read("b.jpg") == b"b" * 1000
            fake.headers.clear()
            assert store.read("c.jpg") == b"c" * 1000
            assert gets(fake) == [("src/c.jpg", False)]


@pytest.mark.parametrize("name", ["crc32", "sha1", "sha256"])
def test_checksums_of_every_kind_are_compared_and_those_of_parts_are_not(fake: FakeS3, name: str) -> None:
    data = fake.objects["src/b.jpg"]
    digests = {
        "crc32": zlib.crc32(data).to_bytes(4, "big"),
        "sha1": hashlib.sha1(data, usedforsecurity=False).digest(),
        "sha256": hashlib.sha256(data).digest(),
    }
    right = base64.b64encode(digests[name]).decode()
    wrong = base64.b64encode(digests[name][::-1]).decode()
    inner = S3Store("bucket/src", (("endpoint", fake.endpoint),))
    inner.read("a.jpg")
    for stated in (right, f"{wrong}-2"):
        fake.stated["src/b.jpg"] = {f"x-amz-checksum-{name}": stated}
        assert inner.read("b.jpg") == data
    fake.stated["src/b.jpg"] = {f"x-amz-checksum-{name}": wrong}
    with pytest.raises(TransientError, match="was changed on its way"):
        inner.read("b.jpg")
    assert not any(by_library for _, by_library in gets(fake)[1:])


@contextmanager
def unknown_service(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A service of TLS whose certificate nobody vouches for: where it is, and what it was asked."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the program openssl")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Be silent."""

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"false")

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Clients hang up."""

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_service_that_nobody_vouches_for_is_not_read_from(s3_credentials: None, tmp_path: Path) -> None:
    """Where the library reads from it all the same, everything goes through the library."""
    with unknown_service(tmp_path) as (endpoint, asked):
        once = {"retries": {"total_max_attempts": 1}}
        fs = fsspec.filesystem("s3", endpoint_url=endpoint, config_kwargs=once, skip_instance_cache=True)
        fs.retries = 1
        reads = DirectReads(fs, TIMEOUTS)

        def library() -> bytes:
            # What the library would have sent is known although the service is not trusted.
            with pytest.raises(SSLError):
                sync(fs.loop, fs._call_s3, "get_object", Bucket="bucket", Key="a")
            return b"by the library"

        for _ in range(3):
            assert reads.read("a", "a", library) == b"by the library"
            with pytest.raises(SSLError, match="CERTIFICATE_VERIFY_FAILED"):
                reads.read("b", "b", library)
        assert [reads.read("b", "b", library) for _ in range(2)] == [b"by the library"] * 2
        assert asked == []
