"""What a run refuses to publish: an empty source, many removals, rejects or failed shards; and how gates are opened."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.index import IndexReport
from jobs.recipe import RecipeOptions
from pipeline.core.errors import SightlineError, UserError
from pipeline.core.local import LocalStore
from pipeline.publish.catalog import Catalog
from tests.builders import images, jpeg, run, tar_bytes, write_files, write_parquet

QUICKEST = RecipeOptions(recipe="hsv-histogram", indexes=("flat",))
AGAIN = RecipeOptions()
TILE = jpeg(1, 16, 16)


def index(source: Path | str, root: Path, **more: object) -> IndexReport:
    return run(source, root, **{"recipe": QUICKEST, "files": 64, **more})  # type: ignore[arg-type]


def published(root: Path) -> tuple[int, int]:
    """The head's number, and its images."""
    head = Catalog(LocalStore(str(root))).require_head()
    return head.version, head.summary.images


def many(count: int, folder: str = "") -> dict[str, bytes]:
    # A comment makes equal pictures different files.
    return {f"{folder}{n:03d}.jpg": TILE + f"{folder}{n}".encode() for n in range(count)}


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet", "filelist"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_source_that_looks_empty_empties_no_index(tmp_path: Path, kind: str, dry_run: bool) -> None:
    source, root = tmp_path / "src", tmp_path / "root"
    files = images(4)
    if kind == "tar":
        write_files(source, {"a.tar": tar_bytes(files)})
    elif kind == "parquet":
        write_parquet(source / "a.parquet", files)
    else:
        write_files(source, files)
    location = source
    if kind == "filelist":
        location = tmp_path / "list.txt"
        location.write_text("\n".join(f"src/{name}" for name in files))
    index(location, root)
    source.rename(tmp_path / "elsewhere")
    source.mkdir()
    report = index(location, root, recipe=AGAIN, dry_run=dry_run)
    assert report.exit_code == 4
    assert "--allow-empty" in report.past_gate
    assert str(location) in report.past_gate
    assert published(root) == (1, 4)
    source.rmdir()
    (tmp_path / "elsewhere").rename(source)
    assert index(location, root, recipe=AGAIN).exit_code == 0


def test_an_empty_source_empties_the_index_when_it_may(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(3)), tmp_path / "root"
    index(source, root)
    shutil.rmtree(source)
    source.mkdir()
    assert index(source, root, recipe=AGAIN, allow_empty=True).exit_code == 0
    assert published(root) == (2, 0)
    assert index(source, root, recipe=AGAIN).exit_code == 0, "what is empty already may stay so"


def test_an_empty_source_may_be_given_another_recipe_and_filled_again(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(3)), tmp_path / "root"
    index(source, root)
    shutil.rmtree(source)
    source.mkdir()
    other = replace(QUICKEST, dtype="float32", indexes=("flat", "hnsw"))
    assert index(source, root, recipe=other, allow_empty=True).exit_code == 0
    assert published(root) == (2, 0)
    write_files(source, images(3))
    assert index(source, root, recipe=AGAIN).exit_code == 0
    assert published(root) == (3, 3)


def test_an_empty_source_gives_no_whitening_and_nothing_is_changed(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(3)), tmp_path / "root"
    index(source, root)
    shutil.rmtree(source)
    source.mkdir()
    with pytest.raises(SightlineError, match="it holds no images"):
        index(source, root, recipe=replace(QUICKEST, whiten="pca", dims=2), allow_empty=True)
    assert published(root) == (1, 3)


@pytest.mark.parametrize(("removed", "gated"), [(100, False), (101, True)])
def test_more_than_a_hundred_images_and_a_fifth_are_not_removed_at_once(
    tmp_path: Path, removed: int, gated: bool
) -> None:
    source, root = write_files(tmp_path / "src", many(300)), tmp_path / "root"
    index(source, root)
    for path in sorted(source.iterdir())[:removed]:
        path.unlink()
    report = index(source, root, recipe=AGAIN)
    assert (report.exit_code, published(root)[1]) == ((4, 300) if gated else (0, 300 - removed))
    if gated:
        assert "101 of 300 published images are no longer in the source" in report.past_gate
        assert index(source, root, recipe=AGAIN, max_removal_rate=1.0).exit_code == 0
        assert published(root)[1] == 300 - removed


def test_the_share_decides_beside_the_number(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", many(600)), tmp_path / "root"
    index(source, root)
    for path in sorted(source.iterdir())[:115]:
        path.unlink()
    assert index(source, root, recipe=AGAIN, max_removal_rate=0.15).exit_code == 4
    assert index(source, root, recipe=AGAIN).exit_code == 0, "115 of 600 are less than a fifth"


def test_images_of_containers_are_counted_not_containers(tmp_path: Path) -> None:
    files = {"large.tar": tar_bytes(many(150)), **{f"{n}.tar": tar_bytes(many(10, f"{n}/")) for n in range(9)}}
    source, root = write_files(tmp_path / "src", files), tmp_path / "root"
    index(source, root)
    (source / "large.tar").unlink()
    report = index(source, root, recipe=AGAIN)
    assert "150 of 240 published images" in report.past_gate
    assert published(root) == (1, 240)


def test_a_container_that_shrinks_is_a_removal_too(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", {"a.tar": tar_bytes(many(200))}), tmp_path / "root"
    index(source, root)
    write_files(source, {"a.tar": tar_bytes(many(3))})
    report = index(source, root, recipe=AGAIN)
    assert (report.exit_code, published(root)) == (4, (1, 200))
    assert "197 of 200 published images would be lost" in report.past_gate


def test_another_recipe_does_not_open_the_gate(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", many(200)), tmp_path / "root"
    index(source, root)
    for path in sorted(source.iterdir())[:150]:
        path.unlink()
    assert index(source, root, recipe=replace(AGAIN, dtype="float32")).exit_code == 4
    assert published(root) == (1, 200)


def test_what_a_new_match_leaves_out_is_removed_on_purpose_and_the_rest_is_not(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", {**many(150, "a/"), **many(150, "b/")})
    root = tmp_path / "root"
    index(source, root)
    only_a = replace(AGAIN, match="a/*")
    assert index(source, root, recipe=only_a).exit_code == 0
    assert published(root)[1] == 150
    (source / "a").rename(tmp_path / "away")
    (source / "a").mkdir()
    for path in sorted((tmp_path / "away").iterdir())[:20]:
        shutil.copy2(path, source / "a")
    report = index(source, root, recipe=replace(AGAIN, match="a/*.jpg"))
    assert report.exit_code == 4, "these would still match"


def test_a_source_put_in_the_place_of_another_removes_on_purpose_but_is_not_empty(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", many(150)), tmp_path / "root"
    index(source, root)
    other = write_files(tmp_path / "other", many(5, "x/"))
    (tmp_path / "none").mkdir()
    assert index(tmp_path / "none", root, recipe=AGAIN, replace_source=True).exit_code == 4
    assert published(root) == (1, 150)
    assert index(other, root, recipe=AGAIN, replace_source=True).exit_code == 0
    assert published(root) == (2, 5)


def test_a_gated_run_says_why_images_were_rejected(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", {**images(2), "bad.jpg": b"none", "worse.jpg": b"no image"})
    report = index(source, tmp_path / "root", max_reject_rate=0.1)
    assert report.exit_code == 4
    assert "2 x not an image of an allowed format, e.g. 'bad.jpg'" in report.past_gate


def test_a_run_that_rejects_everything_says_why_with_an_example(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", {"bad.jpg": b"none", "worse.jpg": b"no image"})
    with pytest.raises(SightlineError, match=r"all 2 images were rejected: 2 x not an image .*, e.g. 'bad.jpg'"):
        index(source, tmp_path / "root")


@pytest.mark.parametrize(("broken", "gated"), [(10, False), (11, True)])
def test_more_than_ten_shards_and_a_twentieth_do_not_fail_and_are_published_over(
    tmp_path: Path, broken: int, gated: bool
) -> None:
    tars = {f"{n:02d}.tar": tar_bytes(many(2, f"{n}/")) for n in range(30)}
    bad = {name: data[:600] for name, data in list(tars.items())[:broken]}
    source, root = write_files(tmp_path / "src", {**tars, **bad}), tmp_path / "root"
    report = index(source, root)
    assert (report.exit_code, report.published, len(report.set_aside)) == (4, not gated, broken)
    if gated:
        assert "11 of 30 shards failed (e.g. " in report.past_gate
        assert "--max-failed-rate 0.05" in report.past_gate
        assert not (root / "snapshots").exists()
        allowed = index(source, root, max_failed_rate=0.5)
        assert (allowed.exit_code, allowed.published) == (4, True)
    assert published(root) == (1, 2 * (30 - broken))
    write_files(source, tars)
    assert index(source, root, recipe=AGAIN).exit_code == 0
    assert published(root) == (2, 60)


def test_shards_that_fail_beside_a_published_collection_are_gated_too(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", {"a.tar": tar_bytes(many(3))}), tmp_path / "root"
    index(source, root)
    write_files(source, {f"b{n:02d}.tar": tar_bytes(many(2))[:600] for n in range(11)})
    report = index(source, root, recipe=AGAIN)
    assert (report.exit_code, published(root)) == (4, (1, 3))
    assert "11 of 11 shards failed" in report.past_gate


def test_where_every_shard_of_a_new_collection_fails_the_run_fails(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", {f"b{n:02d}.tar": tar_bytes(many(2))[:600] for n in range(12)})
    with pytest.raises(SightlineError, match="nothing could be indexed"):
        index(source, tmp_path / "root")


@pytest.mark.parametrize("linked", [False, True])
def test_an_index_beneath_its_source_is_no_part_of_it(tmp_path: Path, linked: bool) -> None:
    source = tmp_path / "src"
    write_parquet(source / "a.parquet", images(4))
    root = source / "index"
    if linked:
        root = tmp_path / "root"
        source.joinpath("index").symlink_to(root)
    for _ in range(3):
        report = index(source, root)
        assert (report.exit_code, report.images["indexed"]) == (0, 4)


@pytest.mark.parametrize("where", [".", "../src", "src/deeper"])
def test_an_index_that_would_hold_its_source_is_refused(tmp_path: Path, where: str) -> None:
    source = tmp_path / "root" / where
    write_files(source, images(2))
    root = tmp_path / "root" if where != "../src" else tmp_path / "src"
    with pytest.raises(UserError, match="which lies there itself"):
        index(source, root)
    assert not (root / "snapshots").exists()
