"""A small S3 service in this process: enough of the protocol for tests of one store, with refusals on request."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

WHEN = "Wed, 01 Jan 2025 00:00:00 GMT"
STATUS = {
    **dict.fromkeys(("NoSuchKey", "NoSuchBucket", "NoSuchUpload"), 404),
    "PreconditionFailed": 412,
    "InvalidRange": 416,
    "ExpiredToken": 400,
}
"""Of an error code; 403 for others."""


@dataclass
class FakeS3:
    """One service with one bucket, "bucket". refuse: error codes by "METHOD key", or by "METHOD" alone.

    uploads: keys of multipart uploads under way by their ids. conditional: whether If-None-Match is obeyed.
    headers: those of every request, by method and key. stated: more headers of answers, by key.
    """

    endpoint: str = ""
    bucket: str = "bucket"
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, str] = field(default_factory=dict)
    refuse: dict[str, str] = field(default_factory=dict)
    conditional: bool = True
    page: int = 1000
    headers: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    stated: dict[str, dict[str, str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def location(self, prefix: str = "", **options: str) -> str:
        """A location of this service."""
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return f"s3://{self.bucket}{'/' + prefix if prefix else ''}?endpoint={self.endpoint}{more}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeS3

    def log_message(self, *_: object) -> None:
        """Be silent."""

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path.removeprefix("/")).partition("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        assert "aws-chunked" not in self.headers.get("Content-Encoding", ""), "plain bodies only"
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = parse_qs(parts.query, keep_blank_values=True)
        method = "LIST" if self.command == "GET" and not key else self.command
        if "uploads" in query or "uploadId" in query:
            method = {"GET": "UPLOADS", "LIST": "UPLOADS", "DELETE": "ABORT"}[method]
        with self.fake.lock:
            self.fake.headers.append((method, key, headers))
            code = self.fake.refuse.get(f"{method} {key}") or self.fake.refuse.get(method, "")
            if bucket != "bucket":
                code = "NoSuchBucket"
            if code:
                self._refuse(code)
            else:
                getattr(self, f"_{method.lower()}")(key, body, headers, query)

    do_GET = do_PUT = do_DELETE = do_HEAD = _handle  # noqa: N815

    def _list(self, _: str, __: bytes, ___: dict[str, str], query: dict[str, list[str]]) -> None:
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        keys = sorted((k for k in self.fake.objects if k.startswith(prefix)), key=str.encode)
        keys = [key for key in keys if key.encode() > after.encode()]
        shown, more = keys[: self.fake.page], len(keys) > self.fake.page
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.fake.objects[key])}</Size>"
            f"<ETag>{self._etag(key)}</ETag><LastModified>2025-01-01T00:00:00.000Z</LastModified></Contents>"
            for key in shown
        )
        mark = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        xml = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{mark}{rows}</ListBucketResult>"
        self._answer(200, xml.encode(), {"Content-Type": "application/xml"})

    def _uploads(self, _: str, __: bytes, ___: dict[str, str], query: dict[str, list[str]]) -> None:
        prefix, after = query.get("prefix", [""])[0], query.get("upload-id-marker", [""])[0]
        found = {
            name: key for name, key in sorted(self.fake.uploads.items()) if key.startswith(prefix) and name > after
        }
        shown = list(found)[: self.fake.page]
        rows = "".join(
            f"<Upload><Key>{escape(found[name])}</Key><UploadId>{name}</UploadId>"
            "<Initiated>2024-12-01T00:00:00.000Z</Initiated></Upload>"
            for name in shown
        )
        more = len(found) > len(shown)
        mark = f"<NextKeyMarker>k</NextKeyMarker><NextUploadIdMarker>{shown[-1]}</NextUploadIdMarker>" if more else ""
        xml = f"<ListMultipartUploadsResult><IsTruncated>{str(more).lower()}</IsTruncated>{mark}{rows}"
        self._answer(200, f"{xml}</ListMultipartUploadsResult>".encode(), {"Content-Type": "application/xml"})

    def _abort(self, key: str, _: bytes, __: dict[str, str], query: dict[str, list[str]]) -> None:
        if self.fake.uploads.pop(query["uploadId"][0], None) != key:
            self._refuse("NoSuchUpload")
            return
        self._answer(204, b"", {})

    def _get(self, key: str, _: bytes, headers: dict[str, str], __: dict[str, list[str]]) -> None:
        if key not in self.fake.objects:
            self._refuse("NoSuchKey")
            return
        data = self.fake.objects[key]
        shown = {"ETag": self._etag(key), "Last-Modified": WHEN, **self.fake.stated.get(key, {})}
        if "range" not in headers:
            self._answer(200, data, shown)
            return
        start, end = headers["range"].removeprefix("bytes=").split("-")
        if int(start) >= len(data):
            self._refuse("InvalidRange")
            return
        self._answer(206, data[int(start) : int(end) + 1], shown)

    def _head(self, key: str, body: bytes, headers: dict[str, str], query: dict[str, list[str]]) -> None:
        self._get(key, body, headers, query)

    def _put(self, key: str, body: bytes, headers: dict[str, str], _: dict[str, list[str]]) -> None:
        if headers.get("if-none-match") == "*" and self.fake.conditional and key in self.fake.objects:
            self._refuse("PreconditionFailed")
            return
        self.fake.objects[key] = body
        self._answer(200, b"", {"ETag": self._etag(key)})

    def _delete(self, key: str, _: bytes, __: dict[str, str], ___: dict[str, list[str]]) -> None:
        self.fake.objects.pop(key, None)
        self._answer(204, b"", {})

    def _etag(self, key: str) -> str:
        return f'"{hashlib.md5(self.fake.objects[key]).hexdigest()}"'

    def _refuse(self, code: str) -> None:
        xml = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
        self._answer(STATUS.get(code, 403), xml.encode(), {"Content-Type": "application/xml"})

    def _answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def fake_s3() -> Iterator[FakeS3]:
    """Run a service on this machine."""
    fake = FakeS3()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": fake}))
    server.daemon_threads = True
    fake.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
