"""I2, I4: processes that commit at the same time: ten times ten commits are a hundred versions, and none is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core.storage import open_store
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import load_lists
from tests.integration.publishers import appended
from tests.life import RECIPE, THOROUGH, Life, toy_kinds

REPOSITORY = Path(__file__).parents[2]


def published(tmp_path: Path, root: str) -> Life:
    """A root with one snapshot."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.jpg").write_bytes(b"image")
    (tmp_path / "toy.toml").write_text(RECIPE)
    life = Life(source=str(tmp_path / "src"), root=root, recipe=str(tmp_path / "toy.toml"))
    life.index()
    return life


def race(folder: Path, root: str, publishers: int, commits: int, *more: str) -> None:
    command = [sys.executable, "-m", "tests.integration.publishers", root]
    started = [
        subprocess.Popen([*command, f"w{n}", str(commits), str(folder), *more], cwd=REPOSITORY, env=os.environ)
        for n in range(publishers)
    ]
    while len(list(folder.glob("ready-*"))) < publishers and all(process.poll() is None for process in started):
        time.sleep(0.01)
    (folder / "go").touch()
    assert [process.wait(timeout=240) for process in started] == [0] * publishers


def lost_updates(root: str, publishers: int, commits: int) -> list[str]:
    """What went wrong: too few versions, missing files, versions that lost what an earlier one had."""
    catalog = Catalog(open_store(root))
    versions = catalog.versions()
    faults = []
    if versions != list(range(1, publishers * commits + 2)):
        faults.append(f"{len(versions) - 1} versions of {publishers * commits}")
    held: set[str] = set()
    for version in versions:
        now = set(load_lists(catalog, catalog.load(version)).descriptors["id"].to_pylist())
        if not held <= now:
            faults.append(f"version {version} lost {held - now}")
        held = now
    wanted = {appended(f"w{n}", number).id for n in range(publishers) for number in range(commits)}
    if wanted - held:
        faults.append(f"{len(wanted - held)} commits are in no version")
    return faults


def test_i4_ten_publishers_with_ten_commits_each_make_a_hundred_versions(tmp_path: Path) -> None:
    publishers = 10 if THOROUGH else 4
    with toy_kinds():
        published(tmp_path, str(tmp_path / "root"))
        race(tmp_path, str(tmp_path / "root"), publishers, 10)
        assert lost_updates(str(tmp_path / "root"), publishers, 10) == []


def test_i4_a_store_that_looks_before_it_writes_fails_the_same_test(tmp_path: Path) -> None:
    with toy_kinds():
        published(tmp_path, str(tmp_path / "root"))
        race(tmp_path, str(tmp_path / "root"), 4, 10, "unsafe")
        assert lost_updates(str(tmp_path / "root"), 4, 10) != []


@pytest.mark.s3
def test_i4_ten_publishers_with_ten_commits_each_make_a_hundred_versions_in_s3(tmp_path: Path, bucket: str) -> None:
    with toy_kinds():
        published(tmp_path, f"{bucket}/root")
        race(tmp_path, f"{bucket}/root", 10, 10)
        assert lost_updates(f"{bucket}/root", 10, 10) == []
