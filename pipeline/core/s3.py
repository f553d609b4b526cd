"""S3Store: requests against an S3 prefix, through s3fs. Each may fail by itself; retry.py makes a Store of it.

Endpoint, region and credentials come from the usual AWS variables and profiles, or from the options of the location.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import fsspec
from fsspec.asyn import sync

from pipeline.core.errors import IntegrityError, NotFoundError, ReadError, TransientError
from pipeline.core.names import checked_key
from pipeline.core.s3_errors import no_bucket, s3_errors
from pipeline.core.types import Entry

CONNECT_SECONDS, READ_SECONDS = 10, 30
LEAST_RATE = 100_000
"""Bytes per second below which a transfer is given up and tried again."""


class S3Store:
    """An S3 prefix; see pipeline.core.retry.RemoteStore."""

    def __init__(self, path: str, options: tuple[tuple[str, str], ...] = ()) -> None:
        self.path, self.options = path, options
        self.url = f"s3://{path}"
        self.bucket, _, self.prefix = path.partition("/")
        self._answered = False
        """Whether the bucket is known to exist."""

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Store, (self.path, self.options)

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
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
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
        return self._fs.call_s3(method, Bucket=self.bucket, **self._payer, **parameters)

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
            return cast("bytes", sync(self._fs.loop, self._get, name, {}, ""))

    def read_range(self, name: str, start: int, end: int, etag: str) -> bytes:
        """Return bytes start..end of the version with this ETag; IntegrityError when another one is there."""
        with s3_errors(name, self.url, reading=True):
            data = cast("bytes", sync(self._fs.loop, self._get, name, {"Range": f"bytes={start}-{end - 1}"}, etag))
        if len(data) != end - start:
            raise TransientError(f"{name}: {len(data)} of {end - start} bytes came").at(self.url)
        return data

    async def _get(self, name: str, extra: dict[str, str], etag: str) -> bytes:
        fs = self._fs
        response = await fs._call_s3("get_object", Bucket=self.bucket, Key=self._key(name), **self._payer, **extra)
        async with response["Body"] as body:
            # If-Match differs between servers (quotes or none); what was sent says which version it is.
            if etag and str(response.get("ETag", "")).strip('"') != etag:
                raise IntegrityError(name, "was replaced while it was being read")
            limit = READ_SECONDS + int(response["ContentLength"]) / LEAST_RATE
            data = cast("bytes", await asyncio.wait_for(body.read(), limit))
        if len(data) != int(response["ContentLength"]):
            raise TransientError(f"{name}: {len(data)} of {response['ContentLength']} bytes came")
        return data

    def write(self, name: str, data: bytes) -> None:
        """Put the object."""
        with s3_errors(name, self.url):
            self._fs.pipe_file(self._path(name), data)

    def put_if_absent(self, name: str, data: bytes) -> None:
        """Put with If-None-Match: *, in one request."""
        with s3_errors(name, self.url):
            self._call("put_object", Key=self._key(name), Body=data, IfNoneMatch="*")

    def upload(self, path: Path, name: str) -> None:
        """Put the object from a file, in parts when it is large."""
        with s3_errors(name, self.url):
            self._fs.put_file(str(path), self._path(name))

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
