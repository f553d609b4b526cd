from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import (
    AccessError,
    IntegrityError,
    NotFoundError,
    PlaceError,
    ReadError,
    StoreError,
    TransientError,
    UserError,
)
from pipeline.core.names import absolute_location, parse_location
from pipeline.core.s3 import TIMEOUTS, S3Store
from pipeline.core.storage import Store, discard, open_store, split_location, unfinished
from tests.fake_s3 import FakeS3, fake_s3
from tests.s3_proxy import Fault, proxy_to


@pytest.fixture
def fake(s3_credentials: None) -> Iterator[FakeS3]:
    with fake_s3() as made:
        made.objects.update({"src/a.jpg": b"aaaa", "src/b.jpg": b"bb", "src/empty.jpg": b""})
        yield made


OF_CREDENTIALS = ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "RequestTimeTooSkewed"]
READS = ["read", "stat", "open", "exists"]


def read_by(store: Store, how: str, name: str) -> object:
    return getattr(store, how)(name)


@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize(("code", "words"), [("AccessDenied", "access denied"), ("InvalidObjectState", "restore it")])
def test_one_object_that_is_refused_or_archived_is_an_error_of_reading(
    fake: FakeS3, how: str, code: str, words: str
) -> None:
    store = open_store(fake.location("src"))
    fake.refuse.update({"GET src/a.jpg": code, "HEAD src/a.jpg": code})
    with pytest.raises(ReadError, match=words) as caught:
        read_by(store, how, "a.jpg")
    assert str(caught.value).startswith("a.jpg: ")
    assert store.read("b.jpg") == b"bb"


def test_an_empty_object_that_is_refused_is_no_other_error(fake: FakeS3) -> None:
    fake.refuse["HEAD src/empty.jpg"] = "AccessDenied"
    with pytest.raises(ReadError):
        open_store(fake.location("src")).stat("empty.jpg")


@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize(
    "code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "RequestTimeTooSkewed"]
)
def test_refused_credentials_are_said_even_where_the_answer_has_no_body(fake: FakeS3, how: str, code: str) -> None:
    fake.refuse.update({"GET": code, "HEAD": code})
    with pytest.raises(AccessError):
        read_by(open_store(fake.location("src")), how, "a.jpg")


def test_a_denied_listing_or_write_is_an_error_of_access(fake: FakeS3) -> None:
    fake.refuse.update({"LIST": "AccessDenied", "PUT": "AccessDenied", "DELETE": "AccessDenied"})
    store = open_store(fake.location("src"))
    for call in (lambda: list(store.list()), lambda: store.write("x", b"1"), lambda: store.put_if_absent("x", b"1")):
        with pytest.raises(AccessError):
            call()


@pytest.mark.parametrize("code", ["KMS.DisabledException", "SomethingNew"])
def test_what_is_not_known_is_of_the_reading_when_it_is_read(fake: FakeS3, code: str) -> None:
    fake.refuse.update({"GET": code, "PUT": code})
    store = open_store(fake.location("src"))
    with pytest.raises(ReadError, match=code):
        store.read("a.jpg")
    with pytest.raises(StoreError, match=code) as caught:
        store.write("x", b"1")
    assert type(caught.value) is StoreError


def test_a_quota_names_the_place(fake: FakeS3) -> None:
    fake.refuse["PUT"] = "QuotaExceeded"
    with pytest.raises(PlaceError, match="s3://bucket/src: cannot be written"):
        open_store(fake.location("src")).write("x", b"1")


def test_a_bucket_that_does_not_exist_is_no_empty_one(fake: FakeS3) -> None:
    store = open_store(replace(fake, bucket="other").location("src"))
    for how in ("read", "stat", "exists", "delete"):
        with pytest.raises(UserError, match="s3://other/src: the bucket does not exist"):
            read_by(store, how, "a.jpg")
    with pytest.raises(UserError, match="the bucket does not exist"):
        list(store.list())
    with pytest.raises(UserError, match="the bucket does not exist"):
        store.write("a.jpg", b"1")


def test_a_missing_object_is_missing_and_costs_one_request_once_the_bucket_has_answered(fake: FakeS3) -> None:
    store = open_store(fake.location("src"))
    assert not store.exists("c.jpg")
    assert store.exists("a.jpg")
    fake.headers.clear()
    assert not store.exists("c.jpg")
    assert [method for method, _, _ in fake.headers] == ["HEAD"]
    with pytest.raises(NotFoundError):
        store.read("c.jpg")


def test_what_is_refused_is_asked_for_by_one_byte(fake: FakeS3) -> None:
    store = open_store(fake.location("src"))
    fake.refuse.update({"GET src/a.jpg": "AccessDenied", "HEAD src/a.jpg": "AccessDenied"})
    with pytest.raises(ReadError):
        store.stat("a.jpg")
    assert [headers.get("range") for _, _, headers in fake.headers] == [None, "bytes=0-0"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("page", [1, 2, 3, 5])
def test_a_listing_is_read_page_by_page_to_its_end(fake: FakeS3, page: int) -> None:
    fake.page = page
    fake.objects["other/x.jpg"] = b"x"
    store = open_store(fake.location("src"))
    assert [entry.path for entry in store.list()] == ["a.jpg", "b.jpg", "empty.jpg"]
    assert len(fake.headers) == -(-3 // page)


def test_a_range_is_of_one_version_and_whole(fake: FakeS3) -> None:
    store = S3Store("bucket/src", (("endpoint", fake.endpoint),))
    etag = store.stat("a.jpg").etag
    assert etag
    assert store.read_range("a.jpg", 1, 3, etag) == store.read_range("a.jpg", 1, 3, "") == b"aa"
    with pytest.raises(TransientError, match="2 of 8 bytes came"):
        store.read_range("a.jpg", 2, 10, etag)
    fake.objects["src/a.jpg"] = b"other"
    with pytest.raises(IntegrityError, match="was replaced while it was being read"):
        store.read_range("a.jpg", 1, 3, etag)


def test_a_store_that_was_sent_to_another_process_reads_the_same(fake: FakeS3) -> None:
    store = S3Store("bucket/src", (("endpoint", fake.endpoint), ("requester_pays", "true")))
    assert store.read("a.jpg") == b"aaaa"
    sent = pickle.loads(pickle.dumps(store))
    assert (sent.path, sent.options, sent.url) == (store.path, store.options, store.url)
    assert sent.read("b.jpg") == b"bb"


def test_a_service_that_takes_no_connections_is_tried_again(fake: FakeS3, tmp_path: Path) -> None:
    """It is being started again, say: no object is the reason, and no run ends by it."""
    path = tmp_path / "file"
    path.write_bytes(b"1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        nowhere = f"http://127.0.0.1:{server.getsockname()[1]}"
    for name, call in CALLS.items():
        with pytest.raises(TransientError):
            SMALL.get(name, call)(S3Store("bucket/src", (("endpoint", nowhere),)), path)


def test_layers_below_make_every_request_once(fake: FakeS3, tmp_path: Path) -> None:
    """How often and how long to try is decided in one place, see RetryingStore."""
    path = tmp_path / "file"
    path.write_bytes(b"1")
    with proxy_to(fake.endpoint, pause=0) as proxy:
        store = S3Store("bucket/src", (("endpoint", proxy.endpoint),))
        for name, call in CALLS.items():
            proxy.requests.clear()
            proxy.faults[:] = [Fault("503", "", "", times=100)]
            with pytest.raises(TransientError):
                SMALL.get(name, call)(store, path)
            assert len(proxy.requests) == 1, name


def test_uploads_of_killed_writers_are_found_page_by_page_and_aborted(fake: FakeS3) -> None:
    fake.page = 2
    fake.uploads = {f"u{number}": f"root/descriptors/{number}.parquet" for number in range(5)}
    fake.uploads["other"] = "elsewhere/x"
    store = open_store(fake.location("root"))
    found = list(unfinished(store))
    assert [(entry.path, entry.etag) for entry in found] == [(f"descriptors/{n}.parquet", f"u{n}") for n in range(5)]
    assert all(entry.modified and not entry.size for entry in found)
    for entry in (*found, found[0]):
        discard(store, entry)
    assert fake.uploads == {"other": "elsewhere/x"}


KEYS = [
    "a//b.jpg",
    "/c.jpg",
    "../d.jpg",
    "e/./f.jpg",
    "./g.jpg",
    "..",
    "h::i.jpg",
    "j k+%2F?#é.jpg",
    "C:\\l.jpg",
    "\\xe9.jpg",
]


def test_every_key_is_listed_and_read(fake: FakeS3, tmp_path: Path) -> None:
    fake.objects = {f"odd/{key}": key.encode() for key in KEYS} | {"outside.jpg": b"no"}
    store = open_store(fake.location("odd"))
    assert sorted(entry.path for entry in store.list()) == sorted(KEYS)
    for key in KEYS:
        assert store.read(key) == key.encode()
        assert store.stat(key).size == len(key.encode())
        with store.open(key) as file:
            assert file.read() == key.encode()
        copy = store.local(key, tmp_path)
        assert copy.resolve().parent == tmp_path.resolve()
        assert copy.read_bytes() == key.encode()


def test_a_single_object_with_an_empty_part_is_opened(fake: FakeS3) -> None:
    fake.objects = {"a//b.txt": b"double", "a/b.txt": b"single"}
    for name, data in fake.objects.items():
        store, rest = split_location(fake.location(name))
        assert store.read(rest) == data


def test_requester_pays_is_sent_with_every_request_and_only_where_it_is_said(fake: FakeS3) -> None:
    for options, header in (({"requester_pays": "true"}, "requester"), ({"requester_pays": "false"}, None), ({}, None)):
        fake.headers.clear()
        store = open_store(fake.location("src", **options))
        assert [entry.path for entry in store.list()] == ["a.jpg", "b.jpg", "empty.jpg"]
        store.read("a.jpg")
        with store.open("b.jpg") as file:
            file.read()
        store.write("w", b"1")
        store.put_if_absent("p", b"1")
        store.delete("p")
        store.delete("w")
        assert {method for method, _, _ in fake.headers} == {"LIST", "GET", "HEAD", "PUT", "DELETE"}
        assert {headers.get("x-amz-request-payer") for _, _, headers in fake.headers} == {header}


def test_a_recorded_location_says_who_pays(fake: FakeS3) -> None:
    location = fake.location("src", requester_pays="true")
    assert parse_location(absolute_location(location)) == parse_location(location)
    with pytest.raises(UserError, match="neither true nor false"):
        open_store(fake.location("src", requester_pays="yes"))


class Silent:
    """A service that takes connections. answer: what it sends to each, a byte at a time; it reads nothing."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer, self.ended = answer, threading.Event()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.endpoint = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self.ended.is_set():
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._trickle, args=(connection,), daemon=True).start()

    def _trickle(self, connection: socket.socket) -> None:
        with connection:
            for place in range(len(self.answer)):
                if self.ended.wait(0.2):
                    return
                try:
                    connection.sendall(self.answer[place : place + 1])
                except OSError:
                    return
            self.ended.wait()

    def close(self) -> None:
        self.ended.set()
        self.server.close()


HEADERS = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nX-Long: " + b"x" * 10_000
CALLS: dict[str, Callable[[S3Store, Path], object]] = {
    "page": lambda store, _: store.page("", ""),
    "stat": lambda store, _: store.stat("a"),
    "read": lambda store, _: store.read("a"),
    "read_range": lambda store, _: store.read_range("a", 0, 10, ""),
    "write": lambda store, _: store.write("a", b"x" * 20_000_000),
    "put_if_absent": lambda store, _: store.put_if_absent("a", b"x" * 20_000_000),
    "upload": lambda store, path: store.upload(path, "a"),
    "delete": lambda store, _: store.delete("a"),
    "uploads": lambda store, _: store.uploads(("", "")),
    "abort": lambda store, _: store.abort("a", "1"),
}
SMALL: dict[str, Callable[[S3Store, Path], object]] = {
    "write": lambda store, _: store.write("a", b"1"),
    "put_if_absent": lambda store, _: store.put_if_absent("a", b"1"),
}


class Impatient(S3Store):
    """Waits for as long as a test may."""

    timeouts = replace(TIMEOUTS, request=1.0, least_rate=1e9)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("how", "call"),
    [*(("trickles", call) for call in CALLS), *(("takes nothing in", call) for call in ("write", "upload"))],
)
def test_no_request_waits_for_ever(s3_credentials: None, tmp_path: Path, how: str, call: str) -> None:
    """A connection is made, and no single read of it takes long, or none is waited for."""
    silent = Silent(HEADERS if how == "trickles" else b"")
    path = tmp_path / "file"
    path.write_bytes(b"x" * 20_000_000)
    try:
        with pytest.raises(TransientError):
            CALLS[call](Impatient("bucket", (("endpoint", silent.endpoint),)), path)
    finally:
        silent.close()
