"""Lives in which files are copied, unread for a while, tried again, deleted and compacted, in any order."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import memory
from pipeline.core.memory import MemoryStore
from pipeline.core.types import Entry
from tests.faulty import Watched
from tests.life import Collection, digests, in_memory, some
from tests.places import on_disk, on_s3

KEYS = [f"{n}.jpg" for n in range(8)]


class Troubled(MemoryStore):
    """copies: another one gives other etags without other bytes. unread: names whose reads fail."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.copies: dict[str, int] = {}
        self.unread: set[str] = set()

    def stat(self, name: str) -> Entry:
        entry = super().stat(name)
        return Entry(path=name, size=entry.size, etag=f"{entry.etag}-{self.copies.get(name, 0)}")

    def read(self, name: str) -> bytes:
        if name in self.unread:
            raise OSError(5, "Input/output error", name)
        return super().read(name)


class Story:
    """One collection, and what it should hold once everything can be read."""

    def __init__(self, here: Collection, seed: int) -> None:
        self.here, self.dice = here, random.Random(seed)
        self.store = Troubled(f"{here.name}-src")
        memory.register(f"{here.name}-src", self.store)
        here.life.source = self.store.url
        self.contents: dict[str, str] = {}
        self.deleted: set[str] = set()
        self.lines: list[str] = []

    def change(self) -> None:
        key = self.dice.choice(KEYS)
        number = self.dice.randrange(10)
        self.contents[key] = f"{'bad' if number < 2 else 'img'} {key} {number}"
        self.store.write(key, self.contents[key].encode())

    def remove(self) -> None:
        key = self.dice.choice(KEYS)
        self.contents.pop(key, None)
        self.store.delete(key)

    def copy(self) -> None:
        for key in self.dice.sample(KEYS, 4):
            self.store.copies[key] = self.store.copies.get(key, 0) + 1

    def trouble(self) -> None:
        self.store.unread = set(self.dice.sample(KEYS, self.dice.randrange(5)))

    def index(self) -> None:
        sound = any(text.startswith("img") for text in self.contents.values())
        if self.here.life.catalog.versions() or (sound and not self.store.unread):
            self.here.life.index()

    def retry(self) -> None:
        if self.here.life.catalog.versions():
            self.here.life.index(retry_rejected="")

    def delete(self) -> None:
        if self.here.life.catalog.versions():
            keys = self.dice.sample(KEYS, 2)
            self.deleted |= set(keys) & set(self.here.life.live())
            self.here.life.delete(*keys)

    def restore(self) -> None:
        if self.deleted and self.here.life.catalog.versions():
            key = self.dice.choice(sorted(self.deleted))
            self.deleted.discard(key)
            self.here.life.restore(key)

    def compact(self) -> None:
        if self.here.life.catalog.versions():
            self.here.life.compact()

    def expire(self) -> None:
        if self.here.life.catalog.versions():
            self.here.life.expire()

    def go_on(self) -> None:
        weights = {"change": 5, "remove": 1, "copy": 2, "trouble": 2, "index": 6, "retry": 1, "delete": 1, "restore": 2}
        weights |= {"compact": 1, "expire": 1}
        name = self.dice.choices(list(weights), list(weights.values()))[0]
        self.lines.append(name)
        getattr(self, name)()

    def end(self) -> None:
        self.store.unread.clear()
        self.index()
        if not self.here.life.catalog.versions():
            return
        self.here.life.check()
        sound = {k: v for k, v in self.contents.items() if v.startswith("img") and k not in self.deleted}
        assert self.here.life.live() == digests(sound), self.lines
        assert self.here.life.index().published is False, "nothing is left to do"


@pytest.mark.parametrize("seed", some(range(40), 10))
def test_whatever_happens_the_collection_is_the_source_without_what_is_deleted(seed: int) -> None:
    with in_memory() as here:
        story = Story(here, seed)
        for _ in range(25):
            story.go_on()
            here.life.check(thorough=False)
        story.end()


def test_whatever_happens_on_a_real_folder_it_is_so_too(tmp_path: Path) -> None:
    with on_disk(tmp_path) as here:
        story = Story(here, 7)
        for _ in range(25):
            story.go_on()
            here.life.check(thorough=False)
        story.end()


@pytest.mark.s3
def test_whatever_happens_on_a_real_service_it_is_so_too(bucket: str, tmp_path: Path) -> None:
    with on_s3(bucket, tmp_path) as here:
        story = Story(here, 8)
        for _ in range(12):
            story.go_on()
            here.life.check(thorough=False)
        story.end()


def test_a_run_that_read_a_part_goes_on_from_what_another_published_meanwhile() -> None:
    with in_memory() as here:
        story = Story(here, 0)
        for key in KEYS:
            story.store.write(key, f"img {key}".encode())
        story.store.unread = {"1.jpg", "3.jpg", "4.jpg"}
        with here.through(lambda store: Watched(store, Meanwhile(story, {"0.jpg"}))):
            report = here.life.index()
        assert report.exit_code == 4
        here.life.check()
        assert sorted(here.life.live()) == KEYS, "each read what the other could not, and both indexed the others"
        story.store.unread = set()
        report = here.life.index()
        assert (report.exit_code, report.published) == (0, False)


class Meanwhile:
    """Before the first commit another run commits, which can read other files."""

    def __init__(self, story: Story, unread: set[str]) -> None:
        self.story, self.unread = story, unread

    def __call__(self, kind: str, name: str, carry_out: Callable[..., Any]) -> Any:
        if kind == "put_if_absent" and name == "snapshots/00000001.json" and self.unread:
            self.story.store.unread, self.unread = self.unread, set()
            assert self.story.here.life.index().exit_code == 4
        return carry_out()


@pytest.mark.parametrize("damage", [b"", b"{}"])
def test_a_malformed_record_does_not_keep_garbage_from_being_collected(damage: bytes) -> None:
    with in_memory() as here:
        for key in KEYS:
            here.put(key, f"img {key}")
        here.life.index()
        records = [name for name in here.objects.objects if name.startswith("descriptors/") and name.endswith(".json")]
        for name in records:
            here.objects.write(name, damage)
        for key in KEYS:
            here.put(key, f"IMG {key}")
        here.life.index()
        here.clock.now += 1000
        here.life.expire()
        here.life.check()
        assert not set(records) & set(here.objects.objects), "they record nothing, and are old"
