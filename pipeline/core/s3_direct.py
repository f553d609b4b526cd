"""DirectReads: GETs of S3 objects without what a client library does around each, for sources of many small objects.

The first object is read through the library. Its request says how the others are to look: where the bucket lies, which
headers go along, for which region it is signed. From then on requests are signed by botocore and sent by its HTTP
session, from the thread that wants the bytes. Whatever answer is not plainly the object is left to the library, which
tells what it means (see s3_errors.py). Nothing is retried here.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies
from fsspec.asyn import sync

from pipeline.core.errors import TransientError

CONNECTIONS = 256
"""Connections that are kept open: no fewer than threads that read."""
CREDENTIALS_SECONDS = 30.0
"""How long credentials are used before the library, which renews them in time, is asked again."""
MOST_FAILURES = 3
"""Connections that fail in a row before everything goes through the library for good."""
PIECE = 1 << 18
SAFE = "/~"
"""Letters that are not escaped in keys, as the library does."""
OF_ONE_REQUEST = {"authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256", "range"}
OF_ONE_REQUEST |= {"amz-sdk-invocation-id", "amz-sdk-request", "host", "content-length"}
_SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/]+/[0-9]+/([^/]+)/s3/aws4_request")
_DIGESTS: Mapping[str, Callable[[bytes], bytes]] = {
    "x-amz-checksum-crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "x-amz-checksum-sha1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "x-amz-checksum-sha256": lambda data: hashlib.sha256(data).digest(),
}


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds to connect, and between bytes; bytes per second below which a transfer is given up.

    request: seconds that a request may take as a whole, beside the transfer of a body: a server that takes nothing in,
    or sends a byte now and then, passes the others.
    """

    connect: float
    read: float
    request: float
    least_rate: float

    def of(self, size: int) -> float:
        """Return the seconds that an answer of that size may take in all."""
        return self.read + size / self.least_rate


@dataclass(frozen=True, kw_only=True)
class _Form:
    """What requests of a bucket look like. region: "" where they are not signed."""

    base: str
    headers: Mapping[str, str]
    region: str


class DirectReads:
    """Thread-safe; of one bucket, by one s3fs filesystem, which is also the library that is asked otherwise."""

    def __init__(self, fs: Any, timeouts: Timeouts) -> None:
        self.fs, self._timeouts = fs, timeouts
        self._form: _Form | None = None
        self._session: URLLib3Session | None = None
        self._sent: Any = None
        self._failures = 0
        self._watching = False
        self._frozen: tuple[float, ReadOnlyCredentials | None] = (0.0, None)
        self._lock, self._renewing = threading.Lock(), threading.Lock()

    def read(self, key: str, shown: str, library: Callable[[], bytes]) -> bytes:
        """Return an object's bytes. Raises TransientError, errors of botocore, and what `library` raises.

        library: reads the object through `fs`. shown: the object's name in errors.
        """
        form = self._form
        if form is None and self._failures < MOST_FAILURES:
            # The others wait for the first, rather than all go the slow way.
            with self._lock:
                form = self._form
                if form is None:
                    return self._learned(key, library)
        if form is None:
            return library()
        data = self._tried(form, key, shown)
        return library() if data is None else data

    def _learned(self, key: str, library: Callable[[], bytes]) -> bytes:
        """Read through the library, and take its request for an example."""
        if not self._watching:
            sync(self.fs.loop, self.fs.set_session)
            client = sync(self.fs.loop, self.fs.get_s3, None)
            client.meta.events.register("before-send.s3.GetObject", self._watch)
            self._watching = True
        data = library()
        if self._form is None:
            form = _form(self._sent, key)
            if form is None:
                self._failures = MOST_FAILURES
            else:
                self._session = self._session or self._opened(form)
                self._form = form
        return data

    def _watch(self, request: Any, **_: Any) -> None:
        self._sent = request

    def _opened(self, form: _Form) -> URLLib3Session:
        bundle = self.fs.session.get_config_variable("ca_bundle") or True
        return URLLib3Session(
            verify=self.fs.client_kwargs.get("verify", bundle),
            proxies=get_environ_proxies(form.base),
            timeout=(self._timeouts.connect, self._timeouts.read),
            max_pool_connections=CONNECTIONS,
        )

    def _tried(self, form: _Form, key: str, shown: str) -> bytes | None:
        assert self._session is not None, "there is one as soon as there is a form"
        url = form.base + quote(key, safe=SAFE)
        request = AWSRequest(method="GET", url=url, headers=dict(form.headers), stream_output=True)
        if form.region:
            S3SigV4Auth(self._credentials(), "s3", form.region).add_auth(request)
        try:
            response = self._session.send(request.prepare())
        except (HTTPClientError, NoConnectionError):
            # Perhaps the library reaches the server in a way that is not known here. Many that fail at once count once.
            with self._lock:
                if self._form is form:
                    self._failures, self._form = self._failures + 1, None
            raise
        if response.status_code == 200:
            data = self._body(response, shown)
            self._failures = 0
            return data
        response.raw.drain_conn()
        if response.status_code >= 500 or response.status_code == 429:
            raise TransientError(f"{shown}: {response.status_code}")
        return None

    def _body(self, response: Any, shown: str) -> bytes:
        size = int(response.headers["Content-Length"])
        due = time.monotonic() + self._timeouts.of(size)
        parts = []
        try:
            while part := response.raw.read1(PIECE):
                parts.append(part)
                if time.monotonic() > due:
                    raise TimeoutError
        except (urllib3.exceptions.HTTPError, OSError) as error:
            response.raw.close()
            raise TransientError(f"{shown}: {type(error).__name__}") from None
        response.raw.release_conn()
        data = b"".join(parts)
        if len(data) != size:
            raise TransientError(f"{shown}: {len(data)} of {size} bytes came")
        for name, digest in _DIGESTS.items():
            stated = response.headers.get(name, "")
            # With a dash it is that of the parts of an upload.
            if stated and "-" not in stated and base64.b64decode(stated) != digest(data):
                raise TransientError(f"{shown}: was changed on its way")
        return data

    def _credentials(self) -> ReadOnlyCredentials | None:
        until, frozen = self._frozen
        if time.monotonic() > until:
            with self._renewing:
                # What the library signs its own requests with, which renews itself.
                signer = self.fs.s3._request_signer
                frozen = sync(self.fs.loop, signer._credentials.get_frozen_credentials)
                self._frozen = (time.monotonic() + CREDENTIALS_SECONDS, frozen)
        return frozen


def _form(request: Any, key: str) -> _Form | None:
    """Return what the request of an object looks like; None where another one cannot be made after it."""
    if request is None:
        return None
    url, name = urlsplit(str(request.url)), quote(key, safe=SAFE)
    headers = {str(name): _text(value) for name, value in request.headers.items()}
    scope = _SCOPE.match(headers.get("Authorization", ""))
    if url.query or not url.path.endswith(f"/{name}") or ("Authorization" in headers and scope is None):
        return None
    kept = {name: value for name, value in headers.items() if name.lower() not in OF_ONE_REQUEST}
    base = f"{url.scheme}://{url.netloc}{url.path.removesuffix(name)}"
    return _Form(base=base, headers=kept, region=scope[1] if scope else "")


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
