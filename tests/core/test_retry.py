"""RetryingStore: what can pass is tried again, a bounded number of times; a create is told from a race by reading."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import retry
from pipeline.core.errors import ExistsError, NotFoundError, ReadError, TransientError
from pipeline.core.retry import RetryingStore, RetryPolicy
from pipeline.core.types import Entry

AT_ONCE = RetryPolicy(attempts=4, base=0.0, longest=0.0)


class Remote:
    """Objects, listed two to a page. fails: errors of the next calls by method. late: carried out all the same."""

    url = "remote://place"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.begun: dict[str, str] = {}
        self.fails: dict[str, list[Exception]] = {}
        self.late = False
        self.calls: list[str] = []

    def _meet(self, method: str, carry_out: Callable[[], Any]) -> Any:
        self.calls.append(method)
        waiting = self.fails.get(method)
        if waiting:
            error = waiting.pop(0)
            if self.late:
                carry_out()
            raise error
        return carry_out()

    def _get(self, name: str) -> bytes:
        if name not in self.objects:
            raise NotFoundError(name)
        return self.objects[name]

    def page(self, prefix: str, after: str) -> tuple[list[Entry], str]:
        names = sorted(name for name in self.objects if name.startswith(prefix) and name > after)
        found = [Entry(path=name, size=len(self.objects[name]), etag="e", modified=0.0) for name in names[:2]]
        return self._meet("page", lambda: (found, names[1] if len(names) > 2 else ""))  # type: ignore[no-any-return]

    def stat(self, name: str) -> Entry:
        return self._meet("stat", lambda: Entry(path=name, size=len(self._get(name)), etag="e"))  # type: ignore[no-any-return]

    def read(self, name: str) -> bytes:
        return self._meet("read", lambda: self._get(name))  # type: ignore[no-any-return]

    def read_range(self, name: str, start: int, end: int, etag: str) -> bytes:
        assert etag == "e", "of the version that was opened"
        return self._meet("read_range", lambda: self._get(name)[start:end])  # type: ignore[no-any-return]

    def write(self, name: str, data: bytes) -> None:
        self._meet("write", lambda: self.objects.update({name: data}))

    def put_if_absent(self, name: str, data: bytes) -> None:
        def carry_out() -> None:
            if name in self.objects:
                raise ExistsError(name)
            self.objects[name] = data

        self._meet("put_if_absent", carry_out)

    def upload(self, path: Path, name: str) -> None:
        self._meet("upload", lambda: self.objects.update({name: path.read_bytes()}))

    def delete(self, name: str) -> None:
        self._meet("delete", lambda: self.objects.pop(name, None))

    def uploads(self, after: tuple[str, str]) -> tuple[list[Entry], tuple[str, str] | None]:
        names = sorted(name for name in self.begun if name > after[0])
        found = [Entry(path=name, size=0, etag=self.begun[name]) for name in names[:1]]
        mark = (names[0], self.begun[names[0]]) if len(names) > 1 else None
        return self._meet("uploads", lambda: (found, mark))  # type: ignore[no-any-return]

    def abort(self, name: str, upload: str) -> None:
        assert self.begun[name] == upload
        self._meet("abort", lambda: self.begun.pop(name))


@pytest.fixture
def remote() -> Remote:
    return Remote()


@pytest.fixture
def store(remote: Remote) -> RetryingStore:
    return RetryingStore(remote, AT_ONCE)


def operations(store: RetryingStore, path: Path) -> dict[str, Callable[[], Any]]:
    path.write_bytes(b"file")
    return {
        "page": lambda: [entry.path for entry in store.list()],
        "stat": lambda: store.stat("a").size,
        "read": lambda: store.read("a"),
        "read_range": lambda: store.open("a").read(),
        "write": lambda: store.write("b", b"2"),
        "put_if_absent": lambda: store.put_if_absent("c", b"3"),
        "upload": lambda: store.upload(path, "d"),
        "delete": lambda: store.delete("a"),
        "uploads": lambda: [entry.path for entry in store.unfinished()],
        "abort": lambda: store.discard(Entry(path="u", size=0, etag="1")),
    }


METHODS = ("page", "stat", "read", "read_range", "write", "put_if_absent", "upload", "delete", "uploads", "abort")


@pytest.mark.parametrize("method", METHODS)
def test_what_can_pass_is_tried_as_often_as_the_policy_says_and_counted(
    store: RetryingStore, remote: Remote, tmp_path: Path, method: str
) -> None:
    operation = operations(store, tmp_path / "file")[method]
    remote.objects, remote.begun = {"a": b"one"}, {"u": "1"}
    expected = operation()
    after = dict(remote.objects)
    remote.objects, remote.begun = {"a": b"one"}, {"u": "1"}
    before = retry.total()
    remote.calls.clear()
    remote.fails[method] = [TransientError("slow")] * 3
    assert operation() == expected
    assert (remote.objects, remote.calls.count(method), retry.total() - before) == (after, 4, 3)
    remote.objects, remote.begun = {"a": b"one"}, {"u": "1"}
    remote.calls.clear()
    remote.fails[method] = [TransientError("slow")] * 4
    with pytest.raises(TransientError):
        operation()
    assert remote.calls.count(method) == 4, "and not once more"


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_pass_is_tried_once(store: RetryingStore, remote: Remote, tmp_path: Path, method: str) -> None:
    remote.objects, remote.begun = {"a": b"one"}, {"u": "1"}
    remote.fails[method] = [ReadError("denied")]
    operation = operations(store, tmp_path / "file")[method]
    with pytest.raises(ReadError):
        operation()
    assert remote.calls.count(method) == 1


def test_an_object_that_our_own_try_created_is_ours_and_another_one_is_not(
    store: RetryingStore, remote: Remote
) -> None:
    remote.fails["put_if_absent"] = [TransientError("its answer was lost")]
    remote.late = True
    store.put_if_absent("a", b"ours")
    assert remote.objects == {"a": b"ours"}
    remote.fails["put_if_absent"] = [TransientError("its request was lost")]
    remote.late = False
    with pytest.raises(ExistsError):
        store.put_if_absent("a", b"another")
    assert remote.objects == {"a": b"ours"}


def test_an_object_that_was_there_before_is_never_ours_whatever_it_holds(store: RetryingStore, remote: Remote) -> None:
    remote.objects["a"] = b"same"
    with pytest.raises(ExistsError):
        store.put_if_absent("a", b"same")
    assert remote.calls == ["put_if_absent"], "nothing is read where nothing is unsure"


def test_pages_are_listed_to_the_end_each_with_its_own_tries(store: RetryingStore, remote: Remote) -> None:
    remote.objects = {f"{n}": b"" for n in range(5)}
    remote.fails["page"] = [TransientError("slow")]
    assert [entry.path for entry in store.list()] == list("01234")
    assert remote.calls == ["page"] * 4
    remote.begun = {"u": "1", "v": "2", "w": "3"}
    assert [(entry.path, entry.etag) for entry in store.unfinished()] == [("u", "1"), ("v", "2"), ("w", "3")]


def test_whether_an_object_exists_is_what_the_store_answers(store: RetryingStore, remote: Remote) -> None:
    remote.objects["a"] = b""
    assert (store.exists("a"), store.exists("b")) == (True, False)
    remote.fails["stat"] = [ReadError("denied")]
    with pytest.raises(ReadError):
        store.exists("a")


def test_a_local_copy_is_made_under_a_flat_name(store: RetryingStore, remote: Remote, tmp_path: Path) -> None:
    remote.objects["deep/er/a"] = bytes(range(256)) * 10
    path = store.local("deep/er/a", tmp_path)
    assert (path.parent, path.read_bytes()) == (tmp_path, remote.objects["deep/er/a"])


def test_pauses_grow_up_to_a_bound_and_are_spread() -> None:
    policy = RetryPolicy(base=0.2, longest=15.0)
    for tries, most in ((1, 0.4), (2, 0.8), (5, 6.4), (7, 15.0), (30, 15.0)):
        pauses = [policy.pause(tries) for _ in range(200)]
        assert all(most / 2 <= pause <= most for pause in pauses)
        assert max(pauses) - min(pauses) > most / 4
    assert RetryPolicy() == RetryPolicy(attempts=7, base=0.2, longest=15.0), "about half a minute in all"


def test_pauses_are_made_between_tries_as_the_policy_says(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("pipeline.core.retry.time.sleep", slept.append)

    class Counting(RetryPolicy):
        def pause(self, tries: int) -> float:
            return float(tries)

    store = RetryingStore(remote, Counting(attempts=4))
    for method, call in (("read", lambda: store.read("a")), ("put_if_absent", lambda: store.put_if_absent("b", b""))):
        slept.clear()
        remote.objects["a"] = b""
        remote.fails[method] = [TransientError("slow")] * 3
        call()
        assert slept == [1.0, 2.0, 3.0]


def test_a_store_travels_with_its_policy_and_shows_its_place(remote: Remote) -> None:
    there = pickle.loads(pickle.dumps(RetryingStore(remote, RetryPolicy(attempts=2))))
    assert (there.url, there.policy, there.inner.url) == ("remote://place", RetryPolicy(attempts=2), remote.url)
    assert RetryingStore(remote).policy == RetryPolicy()
