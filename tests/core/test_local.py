"""LocalStore: what it says of errors, what it leaves behind, what it does not read."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.errors import ExistsError, NotFoundError, PlaceError, ReadError, StoreError, UserError
from pipeline.core.local import LocalStore
from pipeline.core.walk import TEMPORARY, Walk
from tests.os_faults import Faults, os_faults

WRITERS: dict[str, Callable[[LocalStore, Path], None]] = {
    "write": lambda store, _: store.write("a/b", b"new"),
    "put_if_absent": lambda store, _: store.put_if_absent("a/c", b"new"),
    "upload": lambda store, source: store.upload(source, "a/d"),
    "delete": lambda store, _: store.delete("a/b"),
}
READERS: dict[str, Callable[[LocalStore], object]] = {
    "read": lambda store: store.read("a/b"),
    "open": lambda store: store.open("a/b").close(),
    "list": lambda store: list(store.list()),
    "list a folder": lambda store: list(store.list("a")),
    "unfinished": lambda store: list(store.unfinished()),
}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    made = LocalStore(str(tmp_path / "root"))
    made.write("a/b", b"old")
    (tmp_path / "source").write_bytes(b"new")
    return made


def number_of_operations(store: LocalStore, call: Callable[[], object]) -> int:
    with os_faults(Faults(folders=(store.root,))) as faults:
        call()
    return len(faults.operations)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EMFILE])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_write_that_fails_anywhere_names_the_place_and_leaves_nothing_half_done(
    tmp_path: Path, store: LocalStore, writer: str, number: int
) -> None:
    source = tmp_path / "source"
    at = 0
    while True:
        store.write("a/b", b"old")
        for name in ("a/c", "a/d"):
            store.delete(name)
        faults = Faults(folders=(store.root,), number=number, at=at)
        error: Exception | None = None
        with os_faults(faults):
            try:
                WRITERS[writer](store, source)
            except (PlaceError, StoreError) as raised:
                error = raised
        if not faults.failed:
            break
        what = faults.operations[at]
        if error is not None:
            assert str(store.root) in str(error), what
            assert isinstance(error, PlaceError) == (number != errno.EMFILE)
        else:
            assert (number, what.split()[:3]) == (errno.EACCES, ["open", "to", "read"]), (
                "a folder that cannot be synced"
            )
        assert [entry.path for entry in store.list()] in (["a/b"], ["a/b", "a/c"], ["a/b", "a/d"], []), what
        assert not store.exists("a/b") or store.read("a/b") in (b"old", b"new"), "whole, or not at all"
        if "os.remove" not in what:
            assert list(store.unfinished()) == [], f"{what}: the temporary file is gone"
        for entry in list(store.unfinished()):
            store.discard(entry)
        at += 1
    assert at >= 1, "operations were met"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("reader", READERS)
def test_a_read_that_fails_is_of_the_reading_and_names_the_place(store: LocalStore, reader: str, number: int) -> None:
    count = number_of_operations(store, lambda: READERS[reader](store))
    assert count >= 1
    for at in range(count):
        with (
            os_faults(Faults(folders=(store.root,), number=number, at=at)),
            pytest.raises(ReadError) as caught,
        ):
            READERS[reader](store)
        assert str(store.root) in str(caught.value)
        assert str(store.root) not in caught.value.bare, "whoever names the place itself can leave it out"
        assert os.strerror(number) in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.ELOOP])
def test_what_vanishes_while_it_is_looked_for_is_not_there(store: LocalStore, number: int) -> None:
    for call in (store.list, store.unfinished):
        for at in range(number_of_operations(store, lambda: list(call()))):  # noqa: B023 - called at once
            with os_faults(Faults(folders=(store.root,), number=number, at=at)):
                assert [entry.path for entry in call()] in ([], ["a/b"])
    with os_faults(Faults(folders=(store.root,), number=number, at=0)), pytest.raises(NotFoundError):
        store.read("a/b")


def test_a_source_that_cannot_be_listed_is_the_users_to_check(store: LocalStore, tmp_path: Path) -> None:
    noted = Walk()
    assert [entry.path for entry in store.walk(noted)] == ["a/b"]
    with os_faults(Faults(folders=(store.root,), number=errno.EIO, at=0)), pytest.raises(UserError, match="be listed"):
        list(store.walk(noted))
    with pytest.raises(UserError, match="cannot be listed"):
        list(LocalStore(str(tmp_path / "nothing")).walk(noted))
    assert noted.unreadable == []
    with os_faults(Faults(folders=(store.root,), number=errno.EIO, at=2)):
        assert list(store.walk(noted)) == []
    assert noted.unreadable == ["a/"]


def test_a_folder_is_there_or_not(store: LocalStore) -> None:
    assert store.is_folder()
    assert not LocalStore(str(store.root / "a" / "b")).is_folder()
    assert not LocalStore(str(store.root / "nothing")).is_folder()


def test_a_name_is_taken_once_and_what_is_there_stays(store: LocalStore) -> None:
    store.put_if_absent("a/c", b"first")
    with pytest.raises(ExistsError):
        store.put_if_absent("a/c", b"second")
    assert store.read("a/c") == b"first"
    assert list(store.unfinished()) == []


def test_a_file_where_a_folder_would_be_is_named(store: LocalStore) -> None:
    for name in ("a/b/c", "a/b/c/d"):
        with pytest.raises(PlaceError, match=rf"{store.root}: a file is where the folder of {name} would be"):
            store.write(name, b"")


def test_a_local_path_is_the_files_own_if_it_is_there(store: LocalStore, tmp_path: Path) -> None:
    assert store.local("a/b", tmp_path) == store.root / "a" / "b"
    with pytest.raises(NotFoundError):
        store.local("a/x", tmp_path)
    with pytest.raises(NotFoundError):
        store.local("a", tmp_path)


def test_unfinished_files_are_found_wherever_they_are_with_size_and_time(store: LocalStore) -> None:
    deep = store.root / "x" / "y" / f"{TEMPORARY}1"
    deep.parent.mkdir(parents=True)
    deep.write_bytes(b"123")
    (store.root / f"{TEMPORARY}2").write_bytes(b"1")
    os.utime(deep, (1e9, 1e9))
    found = {entry.path: entry for entry in store.unfinished()}
    assert set(found) == {f"x/y/{TEMPORARY}1", f"{TEMPORARY}2"}
    assert (found[f"x/y/{TEMPORARY}1"].size, found[f"x/y/{TEMPORARY}1"].modified) == (3, 1e9)
    assert [entry.path for entry in store.list()] == ["a/b"], "and they are never listed"
    for entry in found.values():
        store.discard(entry)
        store.discard(entry)
    assert list(store.unfinished()) == []


def test_a_store_travels_as_its_path(store: LocalStore) -> None:
    there = pickle.loads(pickle.dumps(store))
    assert (there.url, there.read("a/b")) == (store.url, b"old")


def test_what_is_written_in_any_way_is_read_back_whole(store: LocalStore, tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000
    (tmp_path / "large").write_bytes(data)
    store.write("w", data)
    store.put_if_absent("x/p", data)
    store.upload(tmp_path / "large", "x/y/u")
    store.upload(tmp_path / "source", "w")
    for name, expected in (("w", b"new"), ("x/p", data), ("x/y/u", data)):
        assert store.exists(name)
        assert (store.read(name), store.stat(name).size) == (expected, len(expected))
        with store.open(name) as file:
            file.seek(2)
            assert file.read(5) == expected[2:7]
    assert not store.exists("x/none")
    with pytest.raises(NotFoundError, match="none: no such object"):
        store.upload(tmp_path / "none", "w")
    assert store.read("w") == b"new"
    with (
        os_faults(Faults(folders=(store.root,), number=errno.EACCES, at=0)),
        pytest.raises(UserError, match=r"cannot be listed \(Permission denied\)"),
    ):
        list(store.walk(Walk()))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_file_that_cannot_be_uploaded_as_it_cannot_be_read_is_not_blamed_on_the_store(
    store: LocalStore, tmp_path: Path, number: int
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "file").write_bytes(b"new")
    with (
        os_faults(Faults(folders=(scratch,), number=number, at=0)),
        pytest.raises(ReadError) as caught,
    ):
        store.upload(scratch / "file", "a/b")
    assert str(scratch) in str(caught.value)
    assert str(store.root) not in str(caught.value)
    assert store.read("a/b") == b"old"
