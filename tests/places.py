"""Collections on a real folder and on a real S3 service, with what those in memory can do; see life.py."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.core.local import LocalStore
from pipeline.core.storage import Store, open_store
from pipeline.publish.leases import LeaseTimes
from tests.life import RECIPE, Collection, Life, in_memory, toy_kinds

PLACES = ("memory", "folder", pytest.param("ceph", marks=pytest.mark.s3))
"""Parameters of the fixture `place` in conftest.py."""


class OnDisk(Collection):
    """Files in a folder; states are copies of it. Time passes for the root alone: a source has times of its own."""

    folder: Path

    def keep(self) -> Path:
        state = self.folder / f"state-{uuid.uuid4().hex[:8]}"
        for name in ("src", "root"):
            (self.folder / name).mkdir(exist_ok=True)
            shutil.copytree(self.folder / name, state / name, copy_function=shutil.copy2)
        return state

    def go_back(self, state: Path) -> None:
        for name in ("src", "root"):
            shutil.rmtree(self.folder / name)
            shutil.copytree(state / name, self.folder / name, copy_function=shutil.copy2)

    def later(self, seconds: float) -> None:
        for path in (self.folder / "root").rglob("*"):
            if path.is_file():
                found = path.stat()
                os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - int(seconds * 1e9)))


class OnS3(Collection):
    """Objects of a service; states are held in memory. An object that comes back is young."""

    def keep(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        return _contents(self.images), _contents(self.objects)

    def go_back(self, state: tuple[dict[str, bytes], dict[str, bytes]]) -> None:
        for store, wanted in zip((self.images, self.objects), state, strict=True):
            there = _contents(store)
            for name in there.keys() - wanted.keys():
                store.delete(name)
            for name, data in wanted.items():
                if there.get(name) != data:
                    store.write(name, data)

    def later(self, seconds: float) -> None:
        time.sleep(min(seconds, 2.1 * self.life.times.silent))


def _contents(store: Store) -> dict[str, bytes]:
    return {entry.path: store.read(entry.path) for entry in store.list()}


@contextmanager
def on_disk(folder: Path, recipe: str = RECIPE) -> Iterator[OnDisk]:
    """A new, empty collection in a folder."""
    (folder / "src").mkdir(parents=True)
    (folder / "toy.toml").write_text(recipe)
    life = Life(source=str(folder / "src"), root=str(folder / "root"), recipe=str(folder / "toy.toml"))
    stores = [LocalStore(life.source), LocalStore(life.root)]
    made = OnDisk(life=life, images=stores[0], objects=stores[1], name=uuid.uuid4().hex[:8], every=16)
    made.folder = folder
    with toy_kinds():
        yield made


@contextmanager
def on_s3(bucket: str, folder: Path, options: str = "") -> Iterator[OnS3]:
    """A new, empty collection in a bucket. options: of its locations, such as ?endpoint=."""
    (folder / "toy.toml").write_text(RECIPE)
    times = LeaseTimes(beat=1000.0, silent=1.0, watch=0.0, poll=0.01)
    life = Life(
        source=f"{bucket}/src{options}", root=f"{bucket}/root{options}", recipe=str(folder / "toy.toml"), times=times
    )
    stores = [open_store(life.source), open_store(life.root)]
    with toy_kinds():
        yield OnS3(life=life, images=stores[0], objects=stores[1], name=uuid.uuid4().hex[:8], every=64)


@contextmanager
def collection(place: str, request: pytest.FixtureRequest) -> Iterator[Collection]:
    """A new, empty collection in one of PLACES."""
    folder = request.getfixturevalue("tmp_path")
    if place == "folder":
        with on_disk(folder) as disk:
            yield disk
    elif place == "ceph":
        with on_s3(request.getfixturevalue("bucket"), folder) as service:
            yield service
    else:
        with in_memory() as here:
            yield here
