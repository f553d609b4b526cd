"""I5, I6: a deleted image stays deleted under every key it comes by, and no other image is deleted in its place."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import cli
from jobs.delete import notes
from pipeline.core.storage import open_store
from pipeline.publish.lists import load_lists
from tests.builders import tar_bytes
from tests.faulty import Watched
from tests.life import RECIPE, InMemory, digests, in_memory

ROWS = [f"image {n}" for n in range(6)]


@pytest.fixture
def here() -> Iterator[InMemory]:
    with in_memory() as made:
        yield made


def parquet(contents: list[str]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array([text.encode() for text in contents], pa.binary())}), out)
    return out.getvalue()


def arrow(contents: list[str]) -> bytes:
    out = io.BytesIO()
    table = pa.table({"image": pa.array([text.encode() for text in contents], pa.binary())})
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


TABLES = {"parquet": parquet, "arrow": arrow}


def put_rows(here: InMemory, contents: list[str], name: str = "a") -> None:
    here.images.write(f"{name}.{here.life.kind}", TABLES[here.life.kind](contents))


def live_rows(here: InMemory) -> list[str]:
    """The contents that are live, in no order of their rows."""
    here.life.check()
    known = {sha256: text for text, sha256 in zip(ALL, digests({text: text for text in ALL}).values(), strict=True)}
    return sorted(known[sha256] for sha256 in here.life.live().values())


ALL = [*ROWS, *(f"new {n}" for n in range(4)), "twice"]


@pytest.fixture(params=TABLES)
def numbered(request: pytest.FixtureRequest, here: InMemory) -> InMemory:
    here.life.kind = request.param
    put_rows(here, ROWS)
    here.life.index()
    return here


def row(here: InMemory, number: int, name: str = "a") -> str:
    return f"{name}.{here.life.kind}/{number:09d}"


def another_recipe(here: InMemory) -> InMemory:
    """The same collection by a recipe of other descriptors."""
    store = here.life.recipe.rpartition("/")[0]
    open_store(store).write("other.toml", RECIPE.replace('"toy"', '"toy"\nseed = 1').encode())
    return replace(here, life=replace(here.life, recipe=f"{store}/other.toml"))


@pytest.mark.parametrize(
    "changed",
    [ROWS[1:], ["new 0", *ROWS], [*ROWS[:2], *ROWS[3:], "new 1"], list(reversed(ROWS)), ["new 0", "new 1", "new 2"]],
)
def test_a_deleted_row_stays_deleted_and_no_other_one_is_wherever_rows_move(
    numbered: InMemory, changed: list[str]
) -> None:
    told = numbered.life.delete(row(numbered, 2))
    assert (told["deleted"], told["by_content"]) == (1, [row(numbered, 2)])
    assert live_rows(numbered) == sorted(set(ROWS) - {"image 2"})
    put_rows(numbered, changed)
    numbered.life.index()
    expected = sorted(set(changed) - {"image 2"})
    assert live_rows(numbered) == expected
    numbered.life.compact()
    assert live_rows(numbered) == expected
    other = another_recipe(numbered)
    other.life.index()
    assert live_rows(other) == expected
    other.life.index(retrain="always")
    assert live_rows(other) == expected


def test_a_row_is_deleted_again_when_another_image_has_its_number(numbered: InMemory) -> None:
    numbered.life.delete(row(numbered, 2))
    put_rows(numbered, ROWS[1:])
    numbered.life.index()
    assert numbered.life.delete(row(numbered, 2))["deleted"] == 1
    assert live_rows(numbered) == sorted(set(ROWS) - {"image 0", "image 2", "image 3"})
    assert numbered.life.delete(row(numbered, 1))["published"] is False, "image 2 is deleted already"
    put_rows(numbered, ["new 0", *ROWS])
    numbered.life.index()
    assert live_rows(numbered) == sorted([*set(ROWS) - {"image 2", "image 3"}, "new 0"])
    numbered.life.restore(row(numbered, 2))
    numbered.life.index()
    assert live_rows(numbered) == sorted([*ROWS, "new 0"]), "both were deleted under that number"


def test_a_deleted_row_that_moved_to_another_file_is_restored_with_its_deletion(numbered: InMemory) -> None:
    numbered.life.delete(row(numbered, 2))
    put_rows(numbered, ROWS[3:])
    put_rows(numbered, ROWS[:3], "b")
    numbered.life.index()
    assert live_rows(numbered) == sorted(set(ROWS) - {"image 2"})
    numbered.life.compact()
    numbered.life.restore(row(numbered, 2))
    numbered.life.index()
    assert live_rows(numbered) == ROWS


def test_a_rollback_deletes_by_content_what_has_moved_since(numbered: InMemory) -> None:
    put_rows(numbered, ["new 0", *ROWS])
    numbered.life.index()
    numbered.life.delete(row(numbered, 3))
    assert live_rows(numbered) == sorted([*set(ROWS) - {"image 2"}, "new 0"])
    numbered.life.rollback(1)
    assert live_rows(numbered) == sorted(set(ROWS) - {"image 2"}), "row 3 was another image then"
    numbered.life.rollback(2)
    assert live_rows(numbered) == sorted([*set(ROWS) - {"image 2"}, "new 0"])
    numbered.life.restore(row(numbered, 3))
    numbered.life.index()
    assert live_rows(numbered) == sorted([*ROWS, "new 0"])


def test_of_equal_rows_as_many_stay_as_were_not_named(numbered: InMemory) -> None:
    put_rows(numbered, ["image 0", "twice", "image 1", "twice"])
    numbered.life.index()
    told = numbered.life.delete(row(numbered, 1))
    assert told["copies"] == {row(numbered, 1): (row(numbered, 3),)}
    assert live_rows(numbered) == ["image 0", "image 1", "twice"]
    put_rows(numbered, ["twice", "image 1", "twice", "new 0"])
    numbered.life.index()
    assert live_rows(numbered) == ["image 1", "new 0", "twice"]
    another_recipe(numbered).life.index()
    assert live_rows(numbered) == ["image 1", "new 0", "twice"]


@pytest.fixture
def folder(here: InMemory) -> InMemory:
    for number, content in enumerate(ROWS):
        here.put(f"{number}.jpg", content)
    here.life.index()
    return here


def rename(here: InMemory, old: str, new: str) -> None:
    here.put(new, here.images.read(old).decode())
    here.images.delete(old)


def live_keys(here: InMemory) -> list[str]:
    here.life.check()
    return sorted(here.life.live())


def test_a_deleted_file_that_is_renamed_stays_deleted_and_comes_back_with_its_restore(folder: InMemory) -> None:
    folder.life.delete("2.jpg")
    rename(folder, "2.jpg", "sub/other.jpg")
    report = folder.life.index()
    assert (report.images["added"], report.images["seen"], report.images["indexed"]) == (0, 5, 5)
    assert live_keys(folder) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg", "5.jpg"]
    folder.life.compact()
    another_recipe(folder).life.index()
    assert live_keys(folder) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg", "5.jpg"]
    folder.life.restore("2.jpg")
    folder.life.index()
    assert live_keys(folder) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg", "5.jpg", "sub/other.jpg"]


def test_another_image_at_a_deleted_path_stays_deleted_and_the_image_itself_as_well(folder: InMemory) -> None:
    folder.life.delete("2.jpg")
    rename(folder, "2.jpg", "a.jpg")
    folder.put("2.jpg", "new 1")
    folder.life.index()
    assert live_keys(folder) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg", "5.jpg"]
    folder.put("a.jpg", "new 2")
    assert folder.life.index().images["added"] == 1
    assert live_keys(folder) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg", "5.jpg", "a.jpg"], "that path was never deleted"
    lists = load_lists(folder.life.catalog, folder.life.catalog.require_head())
    assert lists.deletions["key"].to_pylist() == ["2.jpg"]


def test_copies_stay_unless_they_are_named_and_are_shown(folder: InMemory) -> None:
    folder.put("copy.jpg", "image 2")
    folder.life.index()
    told = folder.life.delete("2.jpg")
    assert notes(told) == [
        "2.jpg: also under 1 other keys, which stay (copy.jpg); --copies deletes them, too",
    ]
    for _ in range(2):
        folder.put("copy.jpg", "image 2")
        folder.put("later.jpg", "image 2")
        folder.life.index()
        another_recipe(folder).life.index()
        assert live_keys(folder) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg", "5.jpg", "copy.jpg"]
    folder.life.restore("later.jpg")
    folder.life.index()
    assert live_keys(folder) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg", "5.jpg", "copy.jpg", "later.jpg"]
    assert folder.life.delete("copy.jpg", copies=True)["deleted"] == 2
    folder.put("more.jpg", "image 2")
    folder.life.index()
    assert live_keys(folder) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg", "5.jpg"]


def test_a_member_of_a_tar_that_is_renamed_or_moved_to_another_tar_stays_deleted(here: InMemory) -> None:
    here.life.kind = "tar"
    here.images.write("a.tar", tar_bytes({f"{n}.jpg": text.encode() for n, text in enumerate(ROWS)}))
    here.life.index()
    here.life.delete("a.tar/2.jpg", "a.tar/3.jpg")
    moved = {"0.jpg": b"image 0", "renamed.jpg": b"image 2"}
    here.images.write("a.tar", tar_bytes(moved))
    here.images.write("b.tar", tar_bytes({"3.jpg": b"image 3", "x.jpg": b"new 0"}))
    here.life.index()
    assert live_keys(here) == ["a.tar/0.jpg", "b.tar/x.jpg"]
    here.life.restore("a.tar/3.jpg")
    here.life.index()
    assert live_keys(here) == ["a.tar/0.jpg", "b.tar/3.jpg", "b.tar/x.jpg"]


def test_a_deletion_that_is_published_meanwhile_holds_for_copies_that_a_run_brings(folder: InMemory) -> None:
    rename(folder, "2.jpg", "other.jpg")

    class Meanwhile:
        done = False

        def __call__(self, kind: str, name: str, carry_out: Any) -> Any:
            if kind == "put_if_absent" and name.startswith("snapshots/") and not self.done:
                self.done = True
                folder.life.delete("2.jpg")
            return carry_out()

    hook = Meanwhile()
    with folder.through(lambda store: Watched(store, hook)):
        folder.life.index()
    assert hook.done
    assert live_keys(folder) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg", "5.jpg"]


def test_vectors_without_names_are_deleted_by_content(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "src").mkdir()
    vectors = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'indexes = [{kind = "flat"}]\n[source]\nkind = "npy"\n[extractor]\nkind = "precomputed"\ndim = 8\n'
    )

    def told(*arguments: object) -> str:
        assert cli.run([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    np.save(tmp_path / "src/v.npy", vectors)
    told("index", tmp_path / "src", tmp_path / "root", "--recipe", recipe, "--source-kind", "npy")
    out = told("delete", tmp_path / "root", "v.npy/000000001")
    assert "v.npy/000000001 is a row number, which another image may have later" in out
    np.save(tmp_path / "src/v.npy", vectors[1:])
    out = told("index", tmp_path / "src", tmp_path / "root", "--json")
    assert '"indexed": 4' in out
