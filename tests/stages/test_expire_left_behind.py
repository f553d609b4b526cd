"""What killed writers left in a ROOT: temporary files and uploads go when they are older than the grace period."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from jobs.expire import ExpireOptions, expire, lines
from pipeline.core.local import LocalStore
from pipeline.core.storage import open_store
from pipeline.publish.catalog import Catalog
from pipeline.stages.expire import Retention
from tests.builders import images, run, write_files
from tests.fake_s3 import fake_s3
from tests.life import quiet

DAY = 86_400.0


def left(root: Path, name: str, age: float) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_temporary_files_of_killed_writers_go_after_the_grace_period(tmp_path: Path) -> None:
    root = tmp_path / "root"
    run(write_files(tmp_path / "src", images(3)), root)
    published = sorted(entry.path for entry in LocalStore(str(root)).list())
    old = [left(root, f"{folder}.sightline-tmp-0", 8 * DAY) for folder in ("descriptors/x/", "snapshots/", "")]
    young = left(root, "descriptors/x/.sightline-tmp-1", 6 * DAY)
    tried = expire(ExpireOptions(root=str(root), dry_run=True), quiet())
    assert sorted(tried["objects"]) == sorted(path.relative_to(root).as_posix() for path in old)
    assert all(path.exists() for path in old)
    told = expire(ExpireOptions(root=str(root)), quiet())
    assert (told["deleted"], told["unfinished"], told["complete"]) == (3, 3, True)
    assert [path.exists() for path in (*old, young)] == [False, False, False, True]
    assert sorted(entry.path for entry in LocalStore(str(root)).list()) == published
    assert any("3 unfinished" in line for line in lines(told))


@pytest.mark.parametrize("refused", [False, True])
def test_a_sweep_aborts_old_uploads_and_says_when_it_may_not_look(
    s3_credentials: None, tmp_path: Path, refused: bool
) -> None:
    with fake_s3() as fake:
        root = fake.location("root")
        run(write_files(tmp_path / "src", images(3)), root)
        before = dict(fake.objects)
        fake.uploads = {"u": "root/descriptors/x.parquet"}
        if refused:
            fake.refuse["UPLOADS"] = "AccessDenied"
        told = expire(ExpireOptions(root=root, retention=Retention(grace_seconds=DAY)), quiet())
        assert bool(fake.uploads) is refused
        assert ("access denied" in told["unlisted"]) is refused
        assert told["complete"]
        assert {key for key in before if "/leases/" not in key} <= set(fake.objects)
        assert Catalog(open_store(root)).versions() == [1]
