"""Artifacts: what is read is what was recorded, or the error says whether the object is broken or cannot be read."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.artifacts import fetch_artifact, read_artifact
from pipeline.core.errors import IntegrityError, ReadError
from pipeline.core.local import LocalStore
from pipeline.core.memory import MemoryStore
from pipeline.core.storage import Store
from pipeline.core.types import Artifact
from tests.faulty import Watched
from tests.os_faults import Faults, os_faults

DATA = b"some bytes"
WHOLE = Artifact(uri="artifacts/x", sha256=hashlib.sha256(DATA).hexdigest(), bytes=len(DATA))
WAYS: dict[str, Callable[[Store, Path], bytes]] = {
    "read": lambda store, _: read_artifact(store, WHOLE),
    "fetch": lambda store, folder: fetch_artifact(store, WHOLE, folder).read_bytes(),
}


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    made: Store = MemoryStore("artifacts") if request.param == "memory" else LocalStore(str(tmp_path / "root"))
    made.write(WHOLE.uri, DATA)
    return made


@pytest.mark.parametrize("way", WAYS)
def test_what_is_as_recorded_is_returned_and_what_is_not_is_refused_by_name(
    store: Store, tmp_path: Path, way: str
) -> None:
    assert WAYS[way](store, tmp_path) == DATA
    for data, why in ((DATA[::-1], "does not match the sha256"), (DATA[:4], "has 4 bytes, 10 were recorded")):
        store.write(WHOLE.uri, data)
        with pytest.raises(IntegrityError, match=rf"artifacts/x: {why}"):
            WAYS[way](store, tmp_path)
    store.delete(WHOLE.uri)
    with pytest.raises(IntegrityError, match="artifacts/x: is missing"):
        WAYS[way](store, tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_bytes_that_were_changed_on_their_way_are_read_again_once(tmp_path: Path, way: str) -> None:
    store, asked = MemoryStore("artifacts"), []
    store.write(WHOLE.uri, DATA)

    def changing(kind: str, name: str, carry_out: Callable[[], Any]) -> Any:
        asked.append(kind)
        store.write(WHOLE.uri, DATA[::-1] if len(asked) == 1 else DATA)
        return carry_out()

    assert WAYS[way](Watched(store, changing), tmp_path) == DATA
    assert len(asked) == 2


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_cannot_be_read_is_no_broken_one_and_the_place_is_named(
    tmp_path: Path, way: str, number: int
) -> None:
    store = LocalStore(str(tmp_path / "root"))
    store.write(WHOLE.uri, DATA)
    with os_faults(Faults(folders=(store.root,), number=number, at=0)), pytest.raises(ReadError) as caught:
        WAYS[way](store, tmp_path)
    assert str(caught.value).startswith(f"{WHOLE.uri}: ")
    assert str(caught.value).endswith(f"(in {store.url})")
