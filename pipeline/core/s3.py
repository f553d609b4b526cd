"""S3Store: requests against an S3 prefix, through s3fs. Each may fail by itself; retry.py makes a Store of it.

Endpoint, region and credentials come from the usual AWS variables and profiles, or from the options of the location.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import fsspec
from fsspec.asyn import sync

from pipeline.core.errors import IntegrityError, NotFoundError, ReadError, TransientError
from pipeline.core.names import checked_key
from pipeline.core.s3_direct import DirectReads, Timeouts
from pipeline.core.s3_errors import no_bucket, s3_errors
from pipeline.core.types import Entry

TIMEOUTS = Timeouts(connect=10, read=30, request=60, least_rate=100_000)


class S3Store:
    """An S3 prefix; see pipeline.core.retry.RemoteStore."""

    timeouts: Timeouts | None = None
    """Others than TIMEOUTS."""

    def __init__(self, path: str, options: tuple[tuple[str, str], ...] = ()) -> None:
        self.path, self.options = path, options
        self.url = f"s3://{path}"
        self.bucket, _, self.prefix = path.partition("/")
        self._reads: tuple[int, DirectReads] | None = None
        self._lock = threading.Lock()
        self._answered = False
        """Whether the bucket is known to exist."""

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Store, (self.path, self.options)

    @property
    def _timeouts(self) -> Timeouts:
        return self.timeouts or TIMEOUTS

    @property
    def _fs(self) -> Any:
        # fsspec keeps one instance per process, thread and set of options; nothing is held here, nothing is pickled.
        given = dict(self.options)
        keywords: dict[str, Any] = {}
        if "endpoint" in given:
            keywords["endpoint_url"] = given["endpoint"]
        if "region" in given:
            keywords["client_kwargs"] = {"region_name": given["region"]}
        # Every layer below tries once: retry.py alone decides how often and how long.
        config = {
            "connect_timeout": self._timeouts.connect,
            "read_timeout": self._timeouts.read,
            "retries": {"total_max_attempts": 1},
        }
        fs = fsspec.filesystem(
            "s3",
            profile=given.get("profile"),
            anon=given.get("anonymous") == "true",
            use_listings_cache=False,
            config_kwargs=config,
            requester_pays=bool(self._payer),
            **keywords,
        )
        fs.retries = 1
        return fs

    def _call(self, method: str, **parameters: Any) -> Any:
        fs = self._fs
        size = len(parameters.get("Body", b""))
        return self._within(fs, fs._call_s3(method, Bucket=self.bucket, **self._payer, **parameters), size)

    def _within(self, fs: Any, request: Coroutine[Any, Any, Any], size: int) -> Any:
        """Return the answer to a request with a body of so many bytes; TimeoutError when it takes too long."""
        return sync(fs.loop, asyncio.wait_for, request, self._timeouts.request + size / self._timeouts.least_rate)

    @property
    def _payer(self) -> dict[str, str]:
        return {"RequestPayer": "requester"} if dict(self.options).get("requester_pays") == "true" else {}

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{checked_key(name)}" if self.prefix else checked_key(name)

    def _path(self, name: str) -> str:
        return f"{self.bucket}/{self._key(name)}"

    def page(self, prefix: str, after: str) -> tuple[list[Entry], str]:
        """Return up to 1,000 objects, in byte order as S3 lists them, and the mark of the next page."""
        base = f"{self.prefix}/" if self.prefix else ""
        start = base + (f"{prefix.rstrip('/')}/" if prefix else "")
        mark = {"ContinuationToken": after} if after else {}
        try:
            with s3_errors(prefix or self.url, self.url):
                found = self._call("list_objects_v2", Prefix=start, **mark)
        except NotFoundError:
            # A prefix without objects is an empty page: only the bucket can be missing.
            raise no_bucket(self.url) from None
        self._answered = True
        objects = [item for item in found.get("Contents", []) if not item["Key"].endswith("/")]
        entries = [_entry(item["Key"][len(base) :], item["Size"], item) for item in objects]
        return entries, str(found.get("NextContinuationToken", "")) if found.get("IsTruncated") else ""

    def stat(self, name: str) -> Entry:
        """Return size, ETag and time."""
        try:
            with s3_errors(name, self.url, reading=True):
                head = self._call("head_object", Key=self._key(name))
        except (ReadError, NotFoundError) as error:
            if isinstance(error, ReadError) or not self._answered:
                # An answer to HEAD has no body: only one to GET says what is refused or missing, object or more.
                self.read_range(name, 0, 1, "")
            raise
        self._answered = True
        return _entry(name, head["ContentLength"], head)

    def read(self, name: str) -> bytes:
        """Return the object's bytes."""
        with s3_errors(name, self.url, reading=True):
            reads = self._direct()
            return reads.read(self._key(name), name, lambda: self._ranged(reads.fs, name, {}, ""))

    def _direct(self) -> DirectReads:
        """Return what reads whole objects; of this process, since neither connections nor threads survive a fork."""
        with self._lock:
            if self._reads is None or self._reads[0] != os.getpid():
                self._reads = (os.getpid(), DirectReads(self._fs, self._timeouts))
            return self._reads[1]

    def _ranged(self, fs: Any, name: str, extra: dict[str, str], etag: str) -> bytes:
        return cast("bytes", sync(fs.loop, self._get, fs, name, extra, etag))

    def read_range(self, name: str, start: int, end: int, etag: str) -> bytes:
        """Return bytes start..end of the version with this ETag; IntegrityError when another one is there."""
        with s3_errors(name, self.url, reading=True):
            data = self._ranged(self._fs, name, {"Range": f"bytes={start}-{end - 1}"}, etag)
        if len(data) != end - start:
            raise TransientError(f"{name}: {len(data)} of {end - start} bytes came").at(self.url)
        return data

    async def _get(self, fs: Any, name: str, extra: dict[str, str], etag: str) -> bytes:
        answer = fs._call_s3("get_object", Bucket=self.bucket, Key=self._key(name), **self._payer, **extra)
        response = await asyncio.wait_for(answer, self._timeouts.request)
        async with response["Body"] as body:
            # If-Match differs between servers (quotes or none); what was sent says which version it is.
            if etag and str(response.get("ETag", "")).strip('"') != etag:
                raise IntegrityError(name, "was replaced while it was being read")
            limit = self._timeouts.of(int(response["ContentLength"]))
            data = cast("bytes", await asyncio.wait_for(body.read(), limit))
        if len(data) != int(response["ContentLength"]):
            raise TransientError(f"{name}: {len(data)} of {response['ContentLength']} bytes came")
        return data

    def write(self, name: str, data: bytes) -> None:
        """Put the object."""
        with s3_errors(name, self.url):
            fs = self._fs
            self._within(fs, fs._pipe_file(self._path(name), data), len(data))

    def put_if_absent(self, name: str, data: bytes) -> None:
        """Put with If-None-Match: *, in one request."""
        with s3_errors(name, self.url):
            self._call("put_object", Key=self._key(name), Body=data, IfNoneMatch="*")

    def upload(self, path: Path, name: str) -> None:
        """Put the object from a file, in parts when it is large."""
        with s3_errors(name, self.url):
            fs = self._fs
            self._within(fs, fs._put_file(str(path), self._path(name)), path.stat().st_size)

    def delete(self, name: str) -> None:
        """Delete the object."""
        with s3_errors(name, self.url):
            self._call("delete_object", Key=self._key(name))

    def uploads(self, after: tuple[str, str]) -> tuple[list[Entry], tuple[str, str] | None]:
        """Return some multipart uploads that have been begun and not completed, and the mark of the next page."""
        base = f"{self.prefix}/" if self.prefix else ""
        mark = {"KeyMarker": after[0], "UploadIdMarker": after[1]} if any(after) else {}
        with s3_errors(self.url, self.url):
            found = self._call("list_multipart_uploads", Prefix=base, **mark)
        entries = [
            Entry(path=item["Key"][len(base) :], size=0, etag=item["UploadId"], modified=item["Initiated"].timestamp())
            for item in found.get("Uploads", [])
        ]
        more = found.get("IsTruncated")
        return entries, (found["NextKeyMarker"], found["NextUploadIdMarker"]) if more else None

    def abort(self, name: str, upload: str) -> None:
        """Abort a multipart upload; its parts are deleted."""
        with suppress(NotFoundError), s3_errors(name, self.url):
            self._call("abort_multipart_upload", Key=self._key(name), UploadId=upload)


def _entry(name: str, size: int, info: dict[str, Any]) -> Entry:
    etag = str(info.get("ETag", "")).strip('"')
    return Entry(path=name, size=int(size), etag=etag, modified=info["LastModified"].timestamp())
