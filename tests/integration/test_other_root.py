"""Workers that see another ROOT than the driver, and objects that are not there: nothing is published."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.compact import CompactOptions, compact
from jobs.delete import EditOptions, delete
from jobs.index import IndexOptions, run_index
from jobs.recipe import RecipeOptions
from pipeline.core.errors import SightlineError, UserError
from pipeline.core.local import LocalStore
from pipeline.core.resources import Resources
from pipeline.core.storage import open_store
from pipeline.publish.catalog import Catalog
from pipeline.run.inline import InlineRunner
from tests.builders import images, run, write_files
from tests.life import in_memory, quiet

QUICKEST = RecipeOptions(recipe="hsv-histogram", indexes=("flat",))


class Elsewhere(InlineRunner):
    """Workers in another working folder, for whom local paths may mean other folders: `there` is in place of `here`."""

    def __init__(self, folder: Path, here: Path, there: Path) -> None:
        super().__init__()
        self.folder, self.here, self.there = folder, here, there

    def map(self, task: Any, items: Iterable[Any]) -> Iterator[Any]:
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            # What a node mounts does not change: what tasks read and write there is swapped while they work.
            yield from super().map(Swapped(task, self.here, self.there), items)
        finally:
            os.chdir(before)


@dataclass(frozen=True)
class Swapped:
    """A task that is opened while another folder is in the place of ROOT."""

    task: Any
    here: Path
    there: Path
    resources = Resources()

    def open(self, threads: int) -> Callable[[Any], Any]:
        kept = self.here.with_name("kept")
        if self.here != self.there:
            self.here.rename(kept)
            self.here.symlink_to(self.there)
        try:
            function: Callable[[Any], Any] = self.task.open(threads)
        finally:
            if self.here != self.there:
                self.here.unlink()
                kept.rename(self.here)
        return function


def options(source: str, root: str) -> IndexOptions:
    return IndexOptions(source=source, root=root, recipe=QUICKEST)


def test_relative_locations_are_those_of_the_driver_in_every_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "src", images(6))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "root"
    report = run_index(options("src", "root"), quiet(), Elsewhere(tmp_path / "other", root, root))
    assert (report.exit_code, report.images["indexed"]) == (0, 6)
    assert list((tmp_path / "other").iterdir()) == []
    head = Catalog(LocalStore(str(root))).require_head()
    assert head.source == str(tmp_path / "src")


def test_a_worker_with_another_folder_in_the_place_of_root_ends_the_run(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(6)), tmp_path / "root"
    there = tmp_path / "there"
    for folder in (root, there):
        folder.mkdir()
    with pytest.raises(UserError, match=rf"{root}: the worker on node .* does not see the ROOT of the driver"):
        run_index(options(str(source), str(root)), quiet(), Elsewhere(tmp_path, root, there))
    assert list(there.rglob("*.parquet")) == []
    assert Catalog(LocalStore(str(root))).versions() == []


class Lossy:
    """A store on which descriptor or index objects do not stay, or not as they were."""

    def __init__(self, inner: Any, folder: str, damage: str) -> None:
        self.inner, self.folder, self.damage = inner, folder, damage

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def put_if_absent(self, name: str, data: bytes) -> None:
        self.inner.put_if_absent(name, data)
        if name.startswith(self.folder):
            for entry in list(self.inner.list(self.folder)):
                if not entry.path.endswith(".json"):
                    self._harm(entry.path)

    def _harm(self, name: str) -> None:
        data = self.inner.read(name)
        if self.damage == "missing":
            self.inner.delete(name)
        else:
            self.inner.write(name, data[:-1] if self.damage == "shorter" else data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("damage", ["missing", "shorter", "changed"])
def test_a_new_object_that_is_not_as_it_was_recorded_is_not_published(damage: str) -> None:
    with in_memory() as here:
        for number in range(4):
            here.put(f"{number}.jpg", f"image {number}")
        lossy = here.through(lambda store: Lossy(store, "indexes", damage))
        with lossy, pytest.raises(SightlineError, match=r"new objects are not as .* nothing is published") as caught:
            here.life.index()
        assert "indexes/" in str(caught.value)
        assert here.life.catalog.versions() == []


def test_objects_of_an_earlier_snapshot_are_not_read_again(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(4)), tmp_path / "root"
    run(source, root, recipe=QUICKEST)
    (root / "indexes").rename(tmp_path / "away")
    write_files(source, images(2, start=4))
    assert run(source, root, recipe=RecipeOptions()).images["indexed"] == 6


def test_compaction_takes_a_relative_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    run(write_files(tmp_path / "src", images(6)), root, recipe=QUICKEST)
    delete(EditOptions(root=str(root), keys=("0001.jpg",)))
    monkeypatch.chdir(tmp_path)
    assert compact(CompactOptions(root="root"), quiet())["rewritten"] > 0
    assert Catalog(open_store("root")).require_head().summary.images == 5
