"""The life of a collection: grows, changes, shrinks, fails and goes on. Inline, on the smallest backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import index_run
from jobs.progress import Reporter
from jobs.verify import verify
from pipeline.core.errors import SightlineError, UserError
from pipeline.core.local import LocalStore
from pipeline.core.memory import MemoryStore, register
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import load_lists
from pipeline.rejects import read_rejects
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.search.query import QueryExtractor
from pipeline.stages.device import choose_device
from tests.builders import QUICK, images, jpeg, run, tar_bytes, write_files
from tests.faulty import Watched

ALL = replace(QUICK, indexes=("flat", "ivfpq", "lsh"))


def live_keys(root: Path, kind: str = "flat") -> list[str]:
    with SearchIndex.open(str(root)) as index:
        query = np.ones((1, index.dim), np.float32) / np.sqrt(index.dim)
        hits = index.search(query, SearchOptions(k=10_000, index=kind, rerank=0))[0]
    keys = [hit.key for hit in hits]
    assert len(keys) == len(set(keys)), "no image is found twice"
    return sorted(keys)


def top(root: Path, data: bytes, k: int = 3, kind: str = "flat") -> list[tuple[str, float]]:
    with SearchIndex.open(str(root)) as index:
        store = LocalStore(str(root))
        vector = QueryExtractor(store, index.snapshot.recipe, choose_device("cpu")).vector(data, "query")
        return [(hit.key, hit.score) for hit in index.search(vector[None], SearchOptions(k=k, index=kind))[0]]


def descriptors_read(root: Path) -> int:
    return len([p for p in (root / "descriptors").rglob("*.parquet") if ".rejects." not in p.name])


@pytest.mark.parametrize("layout", ["folder", "tar"])
def test_a_published_image_finds_itself(tmp_path: Path, layout: str) -> None:
    files = images(10)
    source = tmp_path / "src"
    if layout == "tar":
        write_files(
            source,
            {"a.tar": tar_bytes(dict(list(files.items())[:5])), "b.tar": tar_bytes(dict(list(files.items())[5:]))},
        )
    else:
        write_files(source, files)
    report = run(source, tmp_path / "root", recipe=ALL)
    assert report.images == {"seen": 10, "indexed": 10, "rejected": 0, "duplicates": 0, "added": 10, "removed": 0}
    for kind in ("flat", "ivfpq", "lsh"):
        (best, *_) = top(tmp_path / "root", files["0003.jpg"], kind=kind)
        assert best[0].endswith("0003.jpg")
        assert best[1] == pytest.approx(1.0, abs=2e-3)


def test_a_rerun_with_nothing_new_reads_no_image_and_publishes_nothing(tmp_path: Path) -> None:
    source, reads = MemoryStore("still"), []

    def watch(kind: str, name: str, carry_out: Callable[[], Any]) -> Any:
        reads.extend([name] if kind in ("read", "open", "local") else [])
        return carry_out()

    for name, data in images(5).items():
        source.write(name, data)
    register("still", Watched(source, watch))
    run(source.url, tmp_path / "root")
    assert sorted(reads) == sorted(images(5))
    reads.clear()
    before = sorted(p for p in (tmp_path / "root").rglob("*"))
    report = run(source.url, tmp_path / "root")
    assert (report.published, report.snapshot, report.images["added"], reads) == (False, 1, 0, [])
    assert sorted(p for p in (tmp_path / "root").rglob("*")) == before
    register("still", None)


def test_only_what_is_new_is_extracted(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(6)), tmp_path / "root"
    run(source, root, recipe=ALL)
    files = descriptors_read(root)
    write_files(source, images(2, start=6))
    report = run(source, root, recipe=ALL)
    assert (report.snapshot, report.images["added"], report.images["indexed"]) == (2, 2, 8)
    assert descriptors_read(root) == files + 1
    for kind in ("flat", "ivfpq", "lsh"):
        assert live_keys(root, kind) == sorted(images(8))
    shards = manifests.index_shards(
        load_lists(Catalog(LocalStore(str(root))), Catalog(LocalStore(str(root))).require_head()).indexes
    )
    assert len({shard.trained.sha256 for shard in shards if shard.kind == "ivfpq"}) == 1


@pytest.mark.parametrize("kind", ["flat", "ivfpq", "lsh"])
def test_i6_removed_and_changed_images_never_come_back(tmp_path: Path, kind: str) -> None:
    source, root = write_files(tmp_path / "src", images(8)), tmp_path / "root"
    run(source, root, recipe=ALL)
    old = jpeg(1)
    (source / "0000.jpg").unlink()
    (source / "0001.jpg").write_bytes(jpeg(500))
    report = run(source, root, recipe=ALL)
    assert (report.images["added"], report.images["removed"], report.images["indexed"]) == (1, 2, 7)
    assert live_keys(root, kind) == [f"{n:04d}.jpg" for n in range(1, 8)]
    assert top(root, jpeg(500), kind=kind)[0][0] == "0001.jpg"
    assert top(root, old, kind=kind)[0][1] < 0.9999 or top(root, old, kind=kind)[0][0] != "0001.jpg"
    write_files(source, images(1, start=20))
    run(source, root, recipe=ALL)
    assert live_keys(root, kind) == [*(f"{n:04d}.jpg" for n in range(1, 8)), "0020.jpg"]


def test_an_image_that_is_put_back_is_there_again_once(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(8)), tmp_path / "root"
    run(source, root, recipe=ALL)
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("0000.jpg", "0001.jpg", "0002.jpg", "0003.jpg"):
        (source / name).rename(kept / name)
    assert run(source, root, recipe=ALL).images["removed"] == 4
    assert live_keys(root) == sorted(images(4, start=4))
    for path in sorted(kept.iterdir()):
        path.rename(source / path.name)
    report = run(source, root, recipe=ALL)
    assert (report.images["added"], report.images["indexed"]) == (4, 8)
    for kind in ("flat", "ivfpq", "lsh"):
        assert live_keys(root, kind) == sorted(images(8))


def test_a_changed_tar_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    source, root = tmp_path / "src", tmp_path / "root"
    write_files(source, {"a.tar": tar_bytes(images(4)), "b.tar": tar_bytes(images(4, start=4))})
    run(source, root)
    write_files(source, {"a.tar": tar_bytes(images(3))})
    report = run(source, root)
    assert (report.images["added"], report.images["removed"], report.images["indexed"]) == (3, 4, 7)
    assert live_keys(root) == [f"a.tar/{n:04d}.jpg" for n in range(3)] + [f"b.tar/{n:04d}.jpg" for n in range(4, 8)]


def test_a_shard_that_cannot_be_read_is_set_aside_and_costs_nobody_else(tmp_path: Path) -> None:
    source, root = tmp_path / "src", tmp_path / "root"
    whole = tar_bytes(images(4))
    write_files(source, {"a.tar": tar_bytes(images(2, start=10)), "bad.tar": whole[: len(whole) // 2]})
    report = run(source, root)
    assert report.exit_code == 4
    assert "bad.tar" in next(iter(report.set_aside.values()))
    assert live_keys(root) == ["a.tar/0010.jpg", "a.tar/0011.jpg"]
    write_files(source, {"bad.tar": whole})
    assert run(source, root).images["added"] == 4


def test_what_is_committed_stays_when_its_new_version_cannot_be_read(tmp_path: Path) -> None:
    source, root = tmp_path / "src", tmp_path / "root"
    whole = tar_bytes(images(4))
    write_files(source, {"a.tar": whole, "b.tar": tar_bytes(images(1, start=9))})
    run(source, root)
    write_files(source, {"a.tar": whole[:3000], "c.tar": tar_bytes(images(1, start=10))})
    report = run(source, root)
    assert report.exit_code == 4
    assert len(live_keys(root)) == 6
    write_files(source, {"a.tar": tar_bytes(images(2, start=20))})
    assert run(source, root).exit_code == 0
    assert [key for key in live_keys(root) if key.startswith("a.tar")] == ["a.tar/0020.jpg", "a.tar/0021.jpg"]


def test_i11_every_image_is_accounted_for(tmp_path: Path) -> None:
    source, root = tmp_path / "src", tmp_path / "root"
    good = images(4)
    write_files(
        source, {**good, "bad.jpg": b"no image", "empty.png": b"", "tiny.jpg": jpeg(1, 10, 10), "notes.txt": b"x"}
    )
    report = run(source, root)
    counts = report.images
    assert counts["seen"] == counts["indexed"] + counts["rejected"] + counts["duplicates"] == 7
    assert (counts["rejected"], report.skipped) == (3, 1)
    rejects = [r for path in sorted((root / "descriptors").rglob("*.rejects.parquet")) for r in read_rejects(path)]
    assert sorted(r.key for r in rejects) == ["bad.jpg", "empty.png", "tiny.jpg"]
    assert all(r.reason for r in rejects)
    (source / "bad.jpg").unlink()
    assert run(source, root).images == {**counts, "seen": 6, "rejected": 2, "added": 0, "removed": 0}


def test_past_the_reject_gate_nothing_is_published_and_nothing_is_lost(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", {**images(3), "bad.jpg": b"x"}), tmp_path / "root"
    report = run(source, root, max_reject_rate=0.1)
    assert (report.exit_code, report.published) == (4, False)
    assert "1 of 4" in report.past_gate
    assert Catalog(LocalStore(str(root))).head() is None
    files = descriptors_read(root)
    assert run(source, root, max_reject_rate=0.5).published
    assert descriptors_read(root) == files


def test_i3_a_killed_run_goes_on_with_the_shards_that_are_missing(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(12)), tmp_path / "root"
    run(source, root)
    done = {path.name for path in (root / "descriptors").rglob("*.parquet")}
    for path in (*(root / "snapshots").iterdir(), *(root / "indexes").rglob("*.json")):
        path.unlink()
    lost = next(iter(sorted((root / "descriptors").rglob("*.json"))))
    lost.unlink()
    report = run(source, root)
    assert report.images["indexed"] == 12
    assert len({path.name for path in (root / "descriptors").rglob("*.parquet")} - done) == 1


def test_another_source_is_refused_unless_it_is_meant(tmp_path: Path) -> None:
    one, two = write_files(tmp_path / "one", images(3)), write_files(tmp_path / "two", images(3, start=5))
    run(one, tmp_path / "root")
    with pytest.raises(UserError, match="--replace-source"):
        run(two, tmp_path / "root")
    report = run(two, tmp_path / "root", replace_source=True)
    assert report.images["removed"] == 3
    assert live_keys(tmp_path / "root") == sorted(images(3, start=5))


@pytest.mark.parametrize("recorded", ["src", "./src", "file://{}/src", "{}/src", "{}/src/"])
def test_one_source_is_the_same_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: str
) -> None:
    write_files(tmp_path / "src", images(3))
    monkeypatch.chdir(tmp_path)
    # Older releases recorded what was typed.
    with monkeypatch.context() as older:
        older.setattr(index_run, "absolute_location", lambda _: recorded.format(tmp_path))
        run("src", "root")
    write_files(tmp_path / "src", images(1, start=7))
    for spelling in ("src", f"{tmp_path}/src/", f"file://{tmp_path}/src"):
        assert not run(spelling, "root").images["removed"]
    assert live_keys(tmp_path / "root") == sorted({**images(3), **images(1, start=7)})
    head = Catalog(LocalStore("root")).head()
    assert head is not None
    assert head.source == str(tmp_path / "src")


def test_a_source_without_a_single_usable_image_publishes_nothing(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", {"a.jpg": b"x"})
    with pytest.raises(SightlineError, match="nothing could be indexed"):
        run(source, tmp_path / "root")
    empty = write_files(tmp_path / "empty", {"a.tar": tar_bytes({"a.json": b"{}"})})
    with pytest.raises(SightlineError, match=r"nothing could be indexed \(it holds no images\)"):
        run(empty, tmp_path / "other")


def test_everything_may_go_and_come(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(3)), tmp_path / "root"
    run(source, root)
    for path in source.iterdir():
        path.unlink()
    (source / "left.txt").write_text("x")
    report = run(source, root, recipe=replace(QUICK, source_kind="folder"), allow_empty=True)
    assert report.images["indexed"] == 0
    assert live_keys(root) == []
    write_files(source, images(2))
    assert run(source, root).images["indexed"] == 2


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", images(3))
    report = run(source, tmp_path / "root", dry_run=True)
    assert report.plan.count("add") == 3
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("kind", ["flat", "ivfpq"])
def test_i15_the_cut_into_index_shards_changes_no_result(tmp_path: Path, kind: str) -> None:
    source = write_files(tmp_path / "src", images(21))
    found = []
    for number, rows in enumerate((1000, 9, 3)):
        root = tmp_path / f"root{number}"
        run(source, root, recipe=ALL, files=3, rows_per_index_shard=rows)
        catalog = Catalog(LocalStore(str(root)))
        shards = manifests.index_shards(load_lists(catalog, catalog.require_head()).indexes)
        assert len([shard for shard in shards if shard.kind == kind]) == (1, 3, 7)[number]
        found.append([top(root, jpeg(seed), k=15, kind=kind) for seed in range(0, 21, 4)])
    assert found[0] == found[1] == found[2]


def test_verify_reads_everything_and_names_what_is_damaged(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", {**images(5), "bad.jpg": b"x"}), tmp_path / "root"
    run(source, root, recipe=replace(ALL, whiten="pca", dims=2))
    assert verify(str(root), Reporter()).faults == ()
    for path in sorted((root / "descriptors").rglob("*.parquet")) + sorted((root / "indexes").rglob("*.faiss")):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        faults = verify(str(root), Reporter()).faults
        named = [fault for fault in faults if path.name in fault]
        expected = 0 if "raw" in str(path) or len(faults) == 0 else 1
        assert len(named) == expected
        path.write_bytes(data)
