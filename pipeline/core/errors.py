"""The one error tree. Failed, conflict and unknown are different types; a user's mistake is one line.

SightlineError                exit 1   something failed
├── UserError                 exit 2   bad usage or input: names the input, the reason, the remedy
│   └── CheckpointRefused     exit 2   a foreign checkpoint that asks for code to be run, or is malformed
├── IntegrityError            exit 1   bytes differ from what was recorded for them
├── StoreError                exit 1   a storage operation failed for good
│   ├── NotFoundError                  no such object
│   ├── ExistsError                    create-if-absent found an object of that name
│   ├── AccessError                    credentials missing, wrong or expired: the whole run ends
│   ├── ReadError                      the place failed, not the bytes (EIO, ESTALE, a denied key); may pass later
│   ├── PlaceError                     ROOT or scratch space cannot be written (full, read-only): the whole run ends
│   └── TransientError                 may pass: timeouts, 5xx, resets; the only kind that is retried
├── ShardError                exit 1   a shard cannot be read whole (truncated, poison); it is set aside
│   └── ContentError                   its own bytes are the reason: every try of the same bytes fails alike
├── ConflictError             exit 3   somebody else committed something this change contradicts
├── CommitUnknownError        exit 1   the commit may or may not have happened; nothing staged was deleted
├── WorkerError               exit 1   this process or its node cannot do the work; another one may
├── UnavailableError          exit 1   workers that hold a part of what is asked do not answer; may pass
└── BadImageError                      one image cannot be used; becomes a reject row, never leaves a worker
"""

from __future__ import annotations

from typing import Self


class SightlineError(Exception):
    """Base of all errors that Sightline raises on purpose; `str()` is one line fit for a user."""

    exit_code = 1


class UserError(SightlineError):
    """A mistake in usage or input: what it is about, what is wrong, what to do."""

    exit_code = 2

    def __init__(self, subject: str, reason: str, remedy: str = "") -> None:
        self.subject, self.reason, self.remedy = subject, reason, remedy
        super().__init__(subject, reason, remedy)

    def __str__(self) -> str:
        line = f"{self.subject}: {self.reason}" + (f"; {self.remedy}" if self.remedy else "")
        return " ".join(line.split())


class CheckpointRefused(UserError):  # noqa: N818 - reads as what happened
    """A foreign checkpoint names a global outside the allow-list, or does not have the promised layout."""


class IntegrityError(SightlineError):
    """Bytes differ from the size or sha256 that a snapshot, record or recipe states for them."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(name, reason)

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}; the object is refused, restore it or roll back"


class StoreError(SightlineError):
    """A storage operation failed and repeating it will not help. place: where the store is, as far as it is known."""

    place = ""

    def at(self, place: str) -> Self:
        """Return this error, which says where it happened; `place` is fit to be shown."""
        self.place = place
        return self

    def __str__(self) -> str:
        return f"{self.bare} (in {self.place})" if self.place and self.place not in self.bare else self.bare

    @property
    def bare(self) -> str:
        """The error without its place."""
        return super().__str__()


class NotFoundError(StoreError):
    """No object has that name."""


class ExistsError(StoreError):
    """Create-if-absent found that an object of that name exists."""


class AccessError(StoreError):
    """The store refuses these credentials; nothing else will work either, so a run ends instead of going on."""


class ReadError(StoreError):
    """An object could not be read for a reason of the place: nothing is known of its bytes, and a later run may."""


class PlaceError(StoreError):
    """A place that is written to (ROOT, scratch space) is full, read-only, not permitted or lost; names the place."""


class TransientError(StoreError):
    """A failure that can pass by itself; the only one that is retried."""


class ShardError(SightlineError):
    """A shard cannot be read whole; the run sets it aside and goes on."""


class ContentError(ShardError):
    """The bytes of a container are the reason why it cannot be read; the same bytes fail again, and are not tried."""


class ConflictError(SightlineError):
    """Another commit took the place and contradicts this one."""

    exit_code = 3


class CommitUnknownError(SightlineError):
    """The outcome of a commit could not be established; everything staged is still there."""


class UnavailableError(SightlineError):
    """Workers that hold a part of what is asked do not answer, so that there is no whole answer; may pass."""


class WorkerError(SightlineError):
    """This process, or the node that it runs on, cannot do the work (no driver for its GPU); another one may."""


class BadImageError(SightlineError):
    """One image cannot be decoded or used; the reason becomes its reject row."""


def bare(error: BaseException) -> str:
    """Return the message of an error without the place, for where that is said otherwise."""
    return error.bare if isinstance(error, StoreError) else str(error)


def of_reading(error: BaseException) -> bool:
    """Tell whether an error says nothing of what was read, so that a later try may succeed.

    That is trouble of the place (ReadError, TransientError, an OSError with a number) and too little memory.
    """
    if isinstance(error, OSError):
        # Libraries raise OSErrors without a number for bytes that they do not understand.
        return error.errno is not None
    return isinstance(error, ReadError | TransientError | MemoryError)
