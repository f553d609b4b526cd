"""`verify --repair` and one indexing run mend a real folder, whatever kind of object is broken or missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from jobs import cli
from jobs.repair import Repaired, RepairOptions, repair
from jobs.verify import verify
from pipeline.core.errors import UserError
from pipeline.core.storage import open_store
from pipeline.publish.catalog import Catalog
from pipeline.publish.leases import Lease, hold
from pipeline.publish.lists import load_lists
from pipeline.publish.manifests import descriptor_files, index_shards
from tests.builders import QUICK, images, run, tar_bytes, write_files
from tests.life import Life, quiet, toy_kinds

RECIPE = """
indexes = [{kind = "flat"}, {kind = "ivfpq", m = 4}]
whiten = {method = "pca", dims = 8}
[extractor]
kind = "toy"
"""


@dataclass(frozen=True)
class Object:
    """What is broken: its name in ROOT."""

    life: Life
    root: Path

    def of(self, what: str) -> str:
        catalog = self.life.catalog
        head = catalog.require_head()
        lists = load_lists(catalog, head)
        files = list(descriptor_files(lists.descriptors))
        shards = index_shards(lists.indexes)
        if what == "rejects":
            return next(file.rejects.uri for file in files if file.rejects is not None)
        if what == "whitening":
            return next(artifact.uri for artifact in head.artifacts if "whitening" in artifact.uri)
        return {
            "descriptors": files[-1].artifact.uri,
            "index": shards[-1].artifact.uri,
            "trained": next(shard for shard in shards if shard.kind == "ivfpq").trained.uri,
            "listing": head.listing.uri,
        }[what]


def missing(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def rotten(path: Path) -> None:
    """Of the same size, which a writer that stores by digest believes."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.fixture(params=["folder", "tar"])
def here(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Object]:
    (tmp_path / "toy.toml").write_text(RECIPE)
    root = tmp_path / "root"
    life = Life(source=str(tmp_path / "src"), root=str(root), recipe=str(tmp_path / "toy.toml"), kind=request.param)
    store = open_store(life.source)
    images = {f"{number:02d}.jpg": f"image {number}".encode() for number in range(20)} | {"bad.jpg": b"bad image"}
    if request.param == "tar":
        names = sorted(images)
        for number in range(4):
            store.write(f"{number}.tar", tar_bytes({name: images[name] for name in names[number::4]}))
    else:
        for name, data in images.items():
            store.write(name, data)
    with toy_kinds():
        life.index()
        life.delete(next(key for key in sorted(life.live()) if key.endswith("03.jpg")))
        yield Object(life, root)


def whole(life: Life) -> None:
    """The head and its searches; what is broken in older snapshots stays so."""
    life.check(thorough=False)
    for kind in ("flat", "ivfpq"):
        assert life.found(kind) == sorted(life.live())


def mended(here: Object) -> Repaired:
    return repair(RepairOptions(root=here.life.root, lease=here.life.times), quiet())[1]


@pytest.mark.parametrize("damage", [missing, cut, rotten])
@pytest.mark.parametrize("what", ["descriptors", "rejects", "index", "trained"])
def test_what_the_source_gives_is_made_again(here: Object, what: str, damage: Callable[[Path], None]) -> None:
    before, live = here.life.catalog.require_head(), here.life.live()
    damage(here.root / here.of(what))
    assert verify(here.life.root, quiet()).faults
    assert not here.life.index(retrain="never").published, "no run looks at bytes that it does not need"
    repaired = mended(here)
    assert repaired.published
    assert repaired.left == ()
    here.life.check(thorough=False)
    assert here.life.index(retrain="never").published
    whole(here.life)
    assert here.life.live() == live
    after = here.life.catalog.require_head()
    assert (after.summary.images, after.summary.seen) == (before.summary.images, before.summary.seen)
    assert not mended(here).published, "nothing is broken any more"
    assert not here.life.index().published


@pytest.mark.parametrize("damage", [missing, cut, rotten])
def test_a_whitening_is_named_and_fitted_again(here: Object, damage: Callable[[Path], None]) -> None:
    live, name = here.life.live(), here.of("whitening")
    damage(here.root / name)
    repaired = mended(here)
    (line,) = repaired.left
    assert name in line
    assert "--refit" in line
    here.life.index(refit=True)
    whole(here.life)
    assert here.life.live() == live


def test_a_broken_listing_is_named_and_nothing_is_given_up(here: Object) -> None:
    rotten(here.root / here.of("listing"))
    rotten(here.root / here.of("descriptors"))
    names = {path for path in here.root.rglob("*") if path.is_file()}
    repaired = mended(here)
    assert not repaired.published
    assert "rollback" in repaired.left[0]
    assert {path for path in here.root.rglob("*") if path.is_file()} == names


def test_nothing_is_repaired_under_a_run(here: Object) -> None:
    rotten(here.root / here.of("descriptors"))
    store = open_store(here.life.root)
    with (
        hold(store, Lease(writer="run", operation="index"), here.life.times),
        pytest.raises(UserError, match="index"),
    ):
        mended(here)


def test_the_command_says_what_it_did(here: Object, capsys: pytest.CaptureFixture[str]) -> None:
    rotten(here.root / here.of("descriptors"))
    assert cli.run(["verify", here.life.root, "--repair"]) == 0
    assert "`sightline index` makes them again" in capsys.readouterr().out
    here.life.index()
    assert cli.run(["verify", here.life.root]) == 0
    assert cli.run(["verify", here.life.root, "--repair", "--snapshot", "1"]) == 2


def test_weights_that_are_given_again_are_stored_again(tmp_path: Path) -> None:
    """A run with nothing else to do stores them, too; named weights come from a copy of the object alone."""
    source, root = write_files(tmp_path / "src", images(4)), tmp_path / "root"
    run(source, root)
    file = tmp_path / "mine.safetensors"
    file.write_bytes((root / weights(root)).read_bytes())
    rotten(root / weights(root))
    assert "copy" in repair(RepairOptions(root=str(root)), quiet())[1].left[0]
    other = tmp_path / "other"
    given = replace(QUICK, weights=str(file))
    run(source, other, recipe=given)
    rotten(other / weights(other))
    assert "--weights FILE" in repair(RepairOptions(root=str(other)), quiet())[1].left[0]
    assert not run(source, other, recipe=given).published
    assert verify(str(other), quiet()).faults == ()


def weights(root: Path) -> str:
    (artifact,) = Catalog(open_store(str(root))).require_head().artifacts
    return artifact.uri
