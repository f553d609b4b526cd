"""What errors of s3fs, botocore and aiohttp mean: classified once, by the code that the server sent.

Refused credentials end a run (AccessError); one object that is refused or archived does not (ReadError). Messages of
these libraries may quote a request, which may hold a signature: they are never repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import botocore.exceptions
import botocore.parsers

from pipeline.core.errors import (
    AccessError,
    ExistsError,
    IntegrityError,
    NotFoundError,
    PlaceError,
    ReadError,
    StoreError,
    TransientError,
    UserError,
)

_TRANSIENT = {
    *("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling", "ThrottlingException"),
    *("RequestLimitExceeded", "TooManyRequests", "BandwidthLimitExceeded", "IncompleteBody", "BadDigest"),
    *("XAmzContentSHA256Mismatch", "OperationAborted", "429", "500", "502", "503", "504"),
}
_TAKEN = {"PreconditionFailed", "412"}
_UNSURE = {"ConditionalRequestConflict", "409"}
_MISSING = {"NoSuchKey", "NoSuchUpload", "NotFound", "404"}
_NO_BUCKET = {"NoSuchBucket"}
_CLOCK = {"RequestTimeTooSkewed"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_CREDENTIALS = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AllAccessDisabled", "InvalidSecurity"),
    *("NotSignedUp", "AccountProblem", "401"),
}
_DENIED = {"AccessDenied", "403"}
_ARCHIVED = {"InvalidObjectState"}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "507"}
_PASSING = (
    TimeoutError,
    asyncio.TimeoutError,
    ConnectionError,
    aiohttp.ClientError,
    # No connection is made: it is refused or takes too long, the name is not resolved, TLS fails. No HTTPClientError.
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.ResponseStreamingError,
    botocore.parsers.ResponseParserError,
)
_NONE = (botocore.exceptions.NoCredentialsError, botocore.exceptions.ProfileNotFound)


@contextmanager
def s3_errors(name: str, place: str, *, reading: bool = False) -> Iterator[None]:
    """Translate errors of requests about an object of a store at `place`; reading: of that object alone."""
    try:
        yield
    except StoreError as error:
        raise error.at(place)  # noqa: B904 - it is the same one
    except (IntegrityError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - classified here, once; what is not known is raised with its type
        found = translated(error, name, place, reading=reading)
        raise (found.at(place) if isinstance(found, StoreError) else found) from None


def translated(error: Exception, name: str, place: str, *, reading: bool) -> Exception:
    """Return our error for one of the libraries; `place` is the store's location, fit to be shown."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", ""))
    status = str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    if code in _NO_BUCKET:
        return no_bucket(place)
    if code in _MISSING or isinstance(error, FileNotFoundError):
        return NotFoundError(f"{name}: no such object")
    if code in _TAKEN or isinstance(error, FileExistsError):
        return ExistsError(f"{name}: exists already")
    if code in _ARCHIVED:
        return ReadError(f"{name}: is archived (storage class); restore it first, then run again")
    refused = _refused(error, code, name, reading=reading)
    if refused is not None:
        return refused
    if code in _FULL or status in _FULL:
        return PlaceError(f"{place}: cannot be written ({code or status}); free space there or raise the quota")
    if code in _TRANSIENT | _UNSURE or status in _TRANSIENT or isinstance(error, _PASSING):
        return TransientError(f"{name}: {code or status or type(error).__name__}")
    return (ReadError if reading else StoreError)(f"{name}: {code or type(error).__name__}")


def no_bucket(place: str) -> UserError:
    """Return the error for a bucket that is not there: whatever it held is not known to be deleted."""
    return UserError(place, "the bucket does not exist", "check its name and the endpoint")


def _refused(error: Exception, code: str, name: str, *, reading: bool) -> StoreError | None:
    """Return the error for a request that was refused: of all requests with these credentials, or of one object."""
    if code in _CLOCK:
        return AccessError(f"{name}: access denied, this machine's clock differs from the server's; set the clock")
    if code in _EXPIRED:
        return AccessError(f"{name}: access denied, the credentials have expired; renew them and run again")
    if isinstance(error, _NONE):
        return AccessError(f"{name}: no AWS credentials were found; set the AWS variables or name a profile")
    if code in _DENIED and reading:
        return ReadError(f"{name}: access denied; check the permissions of this object")
    if code in _DENIED | _CREDENTIALS or (isinstance(error, PermissionError) and code not in _FULL):
        return AccessError(
            f"{name}: access denied; check the AWS credentials, profile and endpoint (a bucket whose requesters pay "
            "wants ?requester_pays=true)"
        )
    return None
