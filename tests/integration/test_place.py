"""A ROOT or scratch space that cannot be written any more ends the run at once, by name, and the next run goes on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.core.errors import PlaceError
from pipeline.core.os_errors import writing
from tests.faulty import Watched
from tests.life import InMemory, in_memory

SHARDS = 6


@pytest.fixture
def here() -> Iterator[InMemory]:
    with in_memory() as made:
        for number in range(3 * SHARDS):
            made.put(f"{number:02d}.jpg", f"image {number}")
        yield made


class Full:
    """A hook: from the second write of a kind on, a store can write nothing."""

    def __init__(self, kind: str, folder: str, number: int) -> None:
        self.kind, self.folder, self.number = kind, folder, number
        self.met = 0

    def __call__(self, kind: str, name: str, carry_out: Callable[..., Any]) -> Any:
        if kind == self.kind and name.startswith(self.folder):
            self.met += 1
            if self.met > 1:
                with writing(name, "/the/root"):
                    raise OSError(self.number, os.strerror(self.number), name)
        return carry_out()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize(
    ("kind", "folder"), [("upload", "descriptors"), ("put_if_absent", "descriptors"), ("write", "manifests")]
)
def test_a_root_that_cannot_be_written_ends_the_run_at_once(
    here: InMemory, kind: str, folder: str, number: int
) -> None:
    hook = Full(kind, folder, number)
    with here.through(lambda store: Watched(store, hook)), pytest.raises(PlaceError) as caught:
        here.life.index()
    assert str(caught.value).startswith(f"/the/root: cannot be written ({os.strerror(number)})")
    assert (hook.met, caught.value.exit_code) == (2, 1), "nothing else is tried"
    assert here.life.catalog.versions() == []
    report = here.life.index()
    assert (report.exit_code, report.images["indexed"]) == (0, 3 * SHARDS)
    here.life.check()
