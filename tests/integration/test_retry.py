"""Rejected images tried again: by kind of source, by reason, once their cause is mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cli import run as command
from jobs.delete import EditOptions, delete, restore
from jobs.index import IndexReport
from jobs.recipe import RecipeOptions
from pipeline.core.local import LocalStore
from pipeline.core.memory import MemoryStore, register
from pipeline.publish.catalog import Catalog
from tests.builders import images, run, tar_bytes, write_files
from tests.unwell import Unwell

QUICKEST = RecipeOptions(recipe="hsv-histogram", indexes=("flat",))


class Mended(MemoryStore):
    """Files whose listing stays as it is while they can be decoded at last, as with a release that reads them."""

    def __init__(self, broken: dict[str, bytes]) -> None:
        super().__init__("mended")
        self.broken = broken

    def below(self, folder: str) -> MemoryStore:
        view = Mended.__new__(Mended)
        view.__dict__.update(super().below(folder).__dict__)
        return view

    def read(self, name: str) -> bytes:
        return self.broken.get(self._prefix + name, super().read(name))


def index(root: Path, **more: object) -> IndexReport:
    return run("memory://mended/src", root, recipe=QUICKEST, files=3, **more)


def spoilt(data: bytes, begin: bytes = b"none") -> bytes:
    return begin + bytes(len(data) - len(begin))


@pytest.fixture(params=["folder", "tar"])
def store(request: pytest.FixtureRequest) -> object:
    files = images(6)
    bad = {
        "0001.jpg": spoilt(files["0001.jpg"]),
        "0004.jpg": files["0004.jpg"][:300].ljust(len(files["0004.jpg"]), b"\0"),
    }
    if request.param == "tar":
        whole = {f"src/{n}.tar": tar_bytes(dict(list(files.items())[n : n + 3])) for n in (0, 3)}
        broken = {f"src/{n}.tar": tar_bytes(dict(list({**files, **bad}.items())[n : n + 3])) for n in (0, 3)}
    else:
        whole = {f"src/{name}": data for name, data in files.items()}
        broken = {f"src/{name}": data for name, data in bad.items()}
    store = Mended(broken)
    for name, data in whole.items():
        store.write(name, data)
    register("mended", store)
    yield store
    register("mended", None)


def counts(root: Path) -> tuple[int, int, int]:
    head = Catalog(LocalStore(str(root))).require_head()
    return head.summary.images, head.summary.rejected, head.summary.seen


def test_rejected_images_are_tried_again_when_told_to_and_counted_once(store: Mended, tmp_path: Path) -> None:
    index(tmp_path)
    rejected = counts(tmp_path)[1]
    assert rejected >= 1
    store.broken.clear()
    assert index(tmp_path).published is False, "a reject is final"
    report = index(tmp_path, retry_rejected="")
    assert (report.exit_code, report.published) == (0, True)
    assert counts(tmp_path) == (6, 0, 6)
    assert index(tmp_path, retry_rejected="").published is False, "nothing is left to try"


def test_only_those_of_a_reason_are_tried(store: Mended, tmp_path: Path) -> None:
    index(tmp_path)
    before = counts(tmp_path)
    store.broken.clear()
    assert index(tmp_path, retry_rejected="no such reason").published is False
    assert index(tmp_path, retry_rejected="ALLOWED FORMAT").published
    assert counts(tmp_path)[0] > before[0]


def test_what_is_rejected_again_stays_a_reject_and_nothing_is_lost(store: Mended, tmp_path: Path) -> None:
    index(tmp_path)
    before = counts(tmp_path)
    for _ in range(2):
        assert index(tmp_path, retry_rejected="").exit_code == 0
        assert counts(tmp_path) == before


def test_what_cannot_be_read_when_it_is_tried_again_stays_as_it_was(store: Mended, tmp_path: Path) -> None:
    index(tmp_path)
    before = counts(tmp_path)
    unwell = Unwell(store)
    for name in list(store.objects):
        unwell.fails[name] = (lambda path: OSError(5, "Input/output error", path), 0)
    register("mended", unwell)
    report = index(tmp_path, retry_rejected="")
    assert report.exit_code == 4
    assert counts(tmp_path) == before


def test_what_was_rejected_before_is_not_taken_up_from_an_older_record(store: Mended, tmp_path: Path) -> None:
    whole = dict(store.objects)
    index(tmp_path)
    store.broken.clear()
    assert index(tmp_path, retry_rejected="").images["indexed"] == 6
    store.objects.clear()
    index(tmp_path, allow_empty=True)
    assert counts(tmp_path) == (0, 0, 0)
    store.objects.update(whole)
    index(tmp_path)
    assert counts(tmp_path) == (6, 0, 6), "the same shards come again, and their first records do not count"


def test_restored_images_that_were_tried_again_come_back(store: Mended, tmp_path: Path) -> None:
    index(tmp_path)
    store.broken.clear()
    index(tmp_path, retry_rejected="")
    edit = EditOptions(root=str(tmp_path), keys=("0001.jpg", "0004.jpg", "0.tar/0001.jpg"), missing_ok=True)
    delete(edit)
    assert counts(tmp_path)[0] < 6
    restore(edit)
    index(tmp_path)
    assert counts(tmp_path) == (6, 0, 6)


def test_images_that_were_tried_again_stay_when_metadata_are_declared(store: Mended, tmp_path: Path) -> None:
    if "src/0.tar" not in store.objects:
        pytest.skip("files carry no metadata")
    index(tmp_path)
    store.broken.clear()
    index(tmp_path, retry_rejected="")
    run("memory://mended/src", tmp_path, recipe=RecipeOptions(metadata="txt:string"))
    assert counts(tmp_path) == (6, 0, 6)


def test_the_option_stands_alone_or_with_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_files(tmp_path / "src", {**images(2), "bad.jpg": b"none"})
    arguments = ["index", str(source), str(tmp_path / "root")]
    assert command([*arguments, "--recipe", "hsv-histogram", "--indexes", "flat"]) == 0
    assert "rejected: 1 x not an image of an allowed format, e.g. 'bad.jpg'" in capsys.readouterr().out
    assert command(["index", "--retry-rejected", *arguments[1:]]) == 0
    assert "tried again: 1 x not an image of an allowed format" in capsys.readouterr().err
    assert command([*arguments, "--retry-rejected=truncated"]) == 0
    assert "no image was rejected before for that reason" in capsys.readouterr().err
