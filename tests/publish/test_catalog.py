from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.recipe import RecipeOptions
from jobs.verify import verify
from pipeline.core.errors import (
    CommitUnknownError,
    ConflictError,
    ExistsError,
    IntegrityError,
    NotFoundError,
    SightlineError,
    TransientError,
    UserError,
)
from pipeline.core.local import LocalStore
from pipeline.core.specs import canonical, digest_of
from pipeline.core.storage import open_store
from pipeline.publish.catalog import Catalog
from pipeline.publish.marks import mark_expired
from pipeline.publish.snapshot import Snapshot, parse_snapshot, snapshot_bytes
from tests.builders import images, run, write_files
from tests.fake_s3 import fake_s3
from tests.life import quiet


@pytest.fixture
def published(tmp_path: Path) -> tuple[Catalog, Snapshot]:
    run(write_files(tmp_path / "src", images(3)), tmp_path / "root")
    catalog = Catalog(LocalStore(str(tmp_path / "root")))
    return catalog, catalog.require_head()


def following(snapshot: Snapshot, writer: str) -> Snapshot:
    return snapshot.model_copy(update={"version": snapshot.version + 1, "parent": snapshot.version, "writer": writer})


def test_a_snapshot_survives_its_file(published: tuple[Catalog, Snapshot]) -> None:
    _, snapshot = published
    assert parse_snapshot(snapshot_bytes(snapshot), "x") == snapshot


def test_i7_any_changed_byte_of_a_snapshot_is_refused(published: tuple[Catalog, Snapshot]) -> None:
    _, snapshot = published
    data = snapshot_bytes(snapshot)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x01
        with pytest.raises(IntegrityError, match=r"00000001\.json"):
            parse_snapshot(bytes(changed), "snapshots/00000001.json")
    for cut in (0, 1, len(data) // 2, len(data) - 1):
        with pytest.raises(IntegrityError):
            parse_snapshot(data[:cut], "x")


def test_i12_a_newer_format_is_refused_plainly(published: tuple[Catalog, Snapshot]) -> None:
    body = json.loads(snapshot_bytes(published[1]))
    del body["digest"]
    body["format"] = 2
    with pytest.raises(SightlineError, match="newer than this release"):
        parse_snapshot(canonical({**body, "digest": digest_of(body)}) + b"\n", "x")


def test_i4_the_second_of_two_commits_of_a_number_is_a_conflict_that_names_both(
    published: tuple[Catalog, Snapshot],
) -> None:
    catalog, snapshot = published
    catalog.commit(following(snapshot, "first"))
    with pytest.raises(ConflictError, match=r"writer first.*writer second"):
        catalog.commit(following(snapshot, "second"))
    assert catalog.require_head().writer == "first"


class Lossy(LocalStore):
    """A store whose conditional create is applied but whose answer is lost, or which fails and stays silent."""

    def __init__(self, path: str, *, applied: bool) -> None:
        super().__init__(path)
        self.applied = applied

    def put_if_absent(self, name: str, data: bytes) -> None:
        if name.startswith("snapshots"):
            if self.applied:
                super().put_if_absent(name, data)
            raise TransientError(f"{name}: timed out")
        super().put_if_absent(name, data)


class Retried(LocalStore):
    """A store whose client retries a create that had succeeded, and then reports the name as taken."""

    def put_if_absent(self, name: str, data: bytes) -> None:
        super().put_if_absent(name, data)
        if name.startswith("snapshots"):
            raise ExistsError(f"{name}: exists already")


def test_i4_a_commit_whose_answer_was_lost_is_found_to_be_done(published: tuple[Catalog, Snapshot]) -> None:
    catalog, snapshot = published
    for number, store in enumerate((Lossy(catalog.store.url, applied=True), Retried(catalog.store.url))):
        snapshot = Catalog(store).commit(following(snapshot, f"w{number}"))
        assert catalog.require_head().writer == f"w{number}"


def test_i4_an_unknown_outcome_is_said_to_be_unknown(published: tuple[Catalog, Snapshot]) -> None:
    catalog, snapshot = published
    with pytest.raises(CommitUnknownError, match="nothing was deleted"):
        Catalog(Lossy(catalog.store.url, applied=False)).commit(following(snapshot, "w"))


def test_i7_changed_missing_and_swapped_objects_are_refused_by_name(published: tuple[Catalog, Snapshot]) -> None:
    catalog, snapshot = published
    root = Path(catalog.store.url)
    for artifact in (snapshot.descriptors, snapshot.listing, *snapshot.artifacts):
        path = root / artifact.uri
        data = path.read_bytes()
        for changed in (data[:-1], data + b"x", bytes([data[0] ^ 1]) + data[1:]):
            path.write_bytes(changed)
            with pytest.raises(IntegrityError) as caught:
                catalog.read(artifact)
            assert artifact.uri in str(caught.value)
        path.unlink()
        with pytest.raises(IntegrityError, match="missing"):
            catalog.fetch(artifact, root)
        path.write_bytes(data)
        assert catalog.read(artifact) == data


def test_the_first_completion_record_counts(published: tuple[Catalog, Snapshot]) -> None:
    catalog, snapshot = published
    first, second = snapshot.listing, snapshot.descriptors
    assert catalog.complete("artifacts/records/x.json", first) == first
    assert catalog.complete("artifacts/records/x.json", second) == first


def test_a_snapshot_under_another_number_is_refused(published: tuple[Catalog, Snapshot]) -> None:
    catalog, snapshot = published
    catalog.store.write(catalog.snapshot_name(2), snapshot_bytes(snapshot))
    assert catalog.versions() == [1, 2]
    for load in (catalog.require_head, lambda: catalog.load(2), lambda: catalog.load_kept(2)):
        with pytest.raises(IntegrityError, match=r"00000002\.json.*says it is snapshot 1"):
            load()
    assert catalog.load(1) == catalog.load_kept(1) == snapshot


def test_a_snapshot_that_has_expired_is_not_to_be_used_and_the_others_are(published: tuple[Catalog, Snapshot]) -> None:
    catalog, snapshot = published
    head = catalog.commit(following(snapshot, "w"))
    mark_expired(catalog.store, 1)
    with pytest.raises(UserError, match="snapshot 1 has expired"):
        catalog.load_kept(1)
    assert catalog.load(1) == snapshot, "it can be read, for what is to be collected"
    assert catalog.load_kept(2) == head


def test_what_is_no_snapshot_is_no_version(published: tuple[Catalog, Snapshot]) -> None:
    catalog, _ = published
    for version in (2, 10, 3):
        catalog.store.write(catalog.snapshot_name(version), b"")
    catalog.store.write("snapshots/readme.txt", b"")
    assert catalog.versions() == [1, 2, 3, 10]


def test_copies_of_snapshots_are_no_versions(published: tuple[Catalog, Snapshot]) -> None:
    catalog, snapshot = published
    data = catalog.store.read(catalog.snapshot_name(snapshot.version))
    for name in ("00000003.json~", "3.json", "old/00000003.json", "\u00b2.json", "00000003.json.bak"):
        catalog.store.write(f"snapshots/{name}", data)
    assert catalog.versions() == [snapshot.version]


def test_a_snapshot_that_is_not_there_is_a_user_s_mistake(published: tuple[Catalog, Snapshot], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no snapshot 7"):
        published[0].load(7)
    with pytest.raises(UserError, match="sightline index"):
        Catalog(LocalStore(str(tmp_path / "empty"))).require_head()
    with pytest.raises(NotFoundError):
        published[0].store.read("snapshots/00000007.json")


class Overwriting(LocalStore):
    """A store of a service that ignores If-None-Match."""

    def put_if_absent(self, name: str, data: bytes) -> None:
        self.write(name, data)


class LostAnswer(LocalStore):
    """A store whose first creation of format.json meets its own earlier try, and is taken for a success."""

    def put_if_absent(self, name: str, data: bytes) -> None:
        if not self.exists(name) or self.read(name) != data:
            super().put_if_absent(name, data)


def test_i4_a_store_that_creates_what_exists_is_refused_before_anything_is_published(
    published: tuple[Catalog, Snapshot],
) -> None:
    catalog, snapshot = published
    for root in (catalog.store.url, f"{catalog.store.url}-new"):
        unsafe = Catalog(Overwriting(root))
        before = unsafe.versions()
        with pytest.raises(UserError, match="created again") as caught:
            unsafe.commit(following(snapshot, "first"))
        assert "\n" not in str(caught.value)
        assert unsafe.versions() == before
    catalog.commit(following(snapshot, "second"))


def test_a_safe_store_is_not_refused_whatever_it_holds(published: tuple[Catalog, Snapshot], tmp_path: Path) -> None:
    for catalog in (published[0], Catalog(LocalStore(str(tmp_path / "new"))), Catalog(LostAnswer(str(tmp_path / "x")))):
        catalog.require_exclusive()
        before = catalog.store.read("format.json")
        catalog.require_exclusive()
        assert catalog.store.read("format.json") == before


def test_a_run_into_a_service_without_conditional_writes_ends_before_an_image_is_read(
    s3_credentials: None, tmp_path: Path
) -> None:
    with fake_s3() as fake:
        fake.conditional = False
        # Nothing of a source may be read: it does not even exist.
        with pytest.raises(UserError, match="If-None-Match"):
            run(tmp_path / "nowhere", fake.location("root"))
        fake.conditional = True
        Catalog(open_store(fake.location("other"))).require_exclusive()


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"shard_id": 3}'])
def test_a_malformed_completion_record_counts_as_none_and_is_made_again(tmp_path: Path, data: bytes) -> None:
    source, root = write_files(tmp_path / "src", images(3)), tmp_path / "root"
    first = run(source, root)
    for snapshot in (root / "snapshots").iterdir():
        snapshot.unlink()
    (record,) = (path for path in (root / "descriptors").rglob("*.json"))
    record.write_bytes(data)
    again = run(source, root)
    assert (again.exit_code, again.images["indexed"]) == (0, first.images["indexed"])
    assert json.loads(record.read_text())["indexed"] == 3


@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
@pytest.mark.parametrize("pattern", ["descriptors/**/*.parquet", "indexes/**/*", "artifacts/*/*"])
def test_a_completion_record_that_contradicts_its_object_counts_as_none_and_is_made_again(
    tmp_path: Path, pattern: str, damage: str
) -> None:
    source, root = write_files(tmp_path / "src", {**images(40), "bad.jpg": b"none"}), tmp_path / "root"
    recipe = RecipeOptions(recipe="hsv-histogram", indexes=("ivfpq",))
    first = run(source, root, recipe=recipe)
    for snapshot in (root / "snapshots").iterdir():
        snapshot.unlink()
    objects = [path for path in root.glob(pattern) if path.is_file() and path.suffix != ".json"]
    assert objects
    for path in objects:
        data = path.read_bytes()
        path.unlink()
        if damage != "missing":
            path.write_bytes(data[:-1] if damage == "cut" else b"")
    again = run(source, root, recipe=recipe)
    assert (again.exit_code, again.images) == (0, first.images)
    assert verify(str(root), quiet()).faults == ()


def test_a_malformed_format_is_refused_and_never_written_over(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(2)), tmp_path / "root"
    run(source, root)
    (root / "format.json").write_text('{"format": 1, "more": true}')
    with pytest.raises(IntegrityError, match=r"format\.json"):
        run(source, root)
    assert json.loads((root / "format.json").read_text())["more"] is True
