"""I3, I10: a process killed with signal 9 at every crash point; the run after it ends where an undisturbed one does."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core import memory
from pipeline.core.storage import open_store
from pipeline.publish import manifests
from pipeline.publish.lists import load_lists
from tests.builders import tar_bytes
from tests.faulty import StopAt, Watched
from tests.integration.victim import POINTS, die
from tests.life import RECIPE, THOROUGH, Life, toy_kinds

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["tests.integration.victim"])


def tar(name: str, count: int) -> bytes:
    return tar_bytes({f"{name}{number}.jpg": f"deadly {name}{number}".encode() for number in range(count)})


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    (tmp_path / "toy.toml").write_text(RECIPE)
    with toy_kinds():
        yield prepared(tmp_path, str(tmp_path / "src"), str(tmp_path / "root"))


def prepared(tmp_path: Path, source: str, root: str) -> Life:
    """Five tars published twice, the second time with one gone; then two more tars wait to be indexed."""
    store = open_store(source)
    for name in "abcde":
        store.write(f"{name}.tar", tar(name, 3))
    # The source goes by one name here and in the victim, which is killed on its way through it.
    memory.register("victim-source", store)
    life = Life(source="memory://victim-source", root=root, recipe=str(tmp_path / "toy.toml"), kind="tar")
    life.index()
    store.delete("e.tar")
    life.index()
    for name in "fg":
        store.write(f"{name}.tar", tar(name, 3))
    return life


def content(life: Life) -> list[tuple[str, str]]:
    """Which descriptors are published, by their bytes."""
    lists = load_lists(life.catalog, life.catalog.require_head())
    return sorted((file.shard_id, file.artifact.sha256) for file in manifests.descriptor_files(lists.descriptors))


def killed_and_resumed(life: Life, source: str, point: str) -> None:
    victim = FORKSERVER.Process(target=die, args=(life, source, point))
    before = records(life)
    victim.start()
    victim.join(timeout=120)
    assert victim.exitcode == -9, f"the process was to be killed at {point}, it ended with {victim.exitcode}"
    life.check(thorough=False)
    done = records(life)
    counted = StopAt()
    memory.register("counted", Watched(open_store(life.root), counted))
    resumed = Life(source=life.source, root="memory://counted", recipe=life.recipe, kind="tar", times=life.times)
    resumed.index()
    extracted = [at for at in counted.operations if at.startswith("upload descriptors/")]
    missing = 2 - (len(done) - len(before)) if not point.startswith(("G", "R")) else 2
    assert len(extracted) == missing, "I3: exactly the shards without a completion record are extracted"
    life.check()
    assert sorted(life.live()) == sorted(f"{n}.tar/{n}{i}.jpg" for n in "abcdfg" for i in range(3))


def records(life: Life) -> set[str]:
    return {entry.path for entry in open_store(life.root).list("descriptors") if entry.path.endswith(".json")}


@pytest.mark.parametrize("point", POINTS)
def test_i3_a_driver_killed_at_a_crash_point(life: Life, tmp_path: Path, point: str) -> None:
    killed_and_resumed(life, str(tmp_path / "src"), point)
    (tmp_path / "other").mkdir()
    undisturbed = Life(source=life.source, root=str(tmp_path / "other" / "root"), recipe=life.recipe, kind="tar")
    undisturbed.index()
    assert content(life) == content(undisturbed), "I10: the same bytes as without the kill"


# On disk each is tried every time; here every third, and all where SIGHTLINE_THOROUGH is set.
@pytest.mark.s3
@pytest.mark.parametrize("point", [*POINTS] if THOROUGH else [*POINTS][::3])
def test_i3_a_driver_killed_at_a_crash_point_in_s3(bucket: str, tmp_path: Path, point: str) -> None:
    (tmp_path / "toy.toml").write_text(RECIPE)
    with toy_kinds():
        killed_and_resumed(prepared(tmp_path, f"{bucket}/src", f"{bucket}/root"), f"{bucket}/src", point)
