from __future__ import annotations

import pickle
import threading
from pathlib import Path

import pytest

from pipeline.core.errors import ExistsError, NotFoundError, StoreError, UserError
from pipeline.core.local import LocalStore
from pipeline.core.names import parse_location, public_url
from pipeline.core.s3 import S3Store
from pipeline.core.storage import open_store, split_location


def test_objects_are_written_read_listed_and_deleted(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write("a/b.txt", b"1")
    store.write("a/b.txt", b"22")
    assert store.read("a/b.txt") == b"22"
    assert store.stat("a/b.txt").size == 2
    assert [entry.path for entry in store.list()] == ["a/b.txt"]
    store.delete("a/b.txt")
    store.delete("a/b.txt")
    assert not store.exists("a/b.txt")
    with pytest.raises(NotFoundError):
        store.read("a/b.txt")


def test_the_listing_is_in_byte_order_of_whole_names(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    names = ["a.jpg", "a/b.jpg", "a-b.jpg", "é.jpg", "Z.jpg", "a0.jpg", "\U0001f5bc.jpg"]
    for name in names:
        store.write(name, b"x")
    assert [entry.path for entry in store.list()] == sorted(names, key=str.encode)


def test_a_prefix_is_a_folder(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    for name in ("snapshots/1.json", "snapshots-old/1.json", "x"):
        store.write(name, b"x")
    assert [entry.path for entry in store.list("snapshots")] == ["snapshots/1.json"]
    assert list(store.list("nothing")) == []


def test_linked_folders_are_followed_and_cycles_are_not(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.jpg").write_bytes(b"x")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "root")
    assert [e.path for e in LocalStore(str(tmp_path / "root")).list()] == ["link/x.jpg"]


def create(store: LocalStore, name: str, number: int, barrier: threading.Barrier, wins: list[int]) -> None:
    barrier.wait()
    try:
        store.put_if_absent(name, bytes([number]) * 5000)
    except ExistsError:
        return
    wins.append(number)


def test_of_many_creators_one_wins_and_nothing_is_ever_partial(tmp_path: Path) -> None:
    for turn in range(30):
        store = LocalStore(str(tmp_path))
        wins: list[int] = []
        barrier = threading.Barrier(4)

        arguments = [(store, f"{turn}.json", n, barrier, wins) for n in range(4)]
        threads = [threading.Thread(target=create, args=each) for each in arguments]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(wins) == 1
        assert store.read(f"{turn}.json") == bytes([wins[0]]) * 5000
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".sightline")]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", "a\0b"])
def test_names_cannot_leave_the_store(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError):
        LocalStore(str(tmp_path)).write(name, b"x")


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/x",
        "ftp://h/x",
        "memory://x",
        "github://a/b",
        "simplecache::file:///etc/hostname",
        "s3://",
        "reference://x",
        "jupyter://h/x",
        "zip://a.jpg::s3://bucket/b.zip",
        "s3://bucket/a::file:///etc/hostname",
        "a\0b",
        "sftp://u:p@h/x",
    ],
)
def test_other_schemes_and_chains_are_refused_in_one_line(url: str) -> None:
    with pytest.raises(UserError) as caught:
        open_store(url)
    assert "\n" not in str(caught.value)
    assert "p@" not in str(caught.value)


def test_secrets_in_locations_are_never_shown() -> None:
    assert public_url("s3://key:secret@bucket/x?X-Amz-Signature=abc") == "s3://bucket/x"
    for url in (
        "s3://key:s3cr3t@bucket/a",
        "s3://bucket/a?X-Amz-Signature=s3cr3t",
        "s3://b/a?endpoint=http://u:s3cr3t@h",
    ):
        with pytest.raises(UserError) as caught:
            parse_location(url)
        assert "s3cr3t" not in str(caught.value)
    assert public_url("/plain/path") == "/plain/path"


def test_an_s3_store_pickles_as_its_url_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
    data = pickle.dumps(S3Store("bucket/prefix"))
    assert b"canary" not in data
    assert pickle.loads(data).url == "s3://bucket/prefix"


def test_a_single_object_is_split_into_its_store_and_name(tmp_path: Path) -> None:
    store, name = split_location(str(tmp_path / "list.txt"))
    assert (store.url, name) == (str(tmp_path), "list.txt")
    assert split_location("file:///a%20b/c.txt")[0].url == "/a b"
    with pytest.raises(UserError, match="not an object"):
        split_location("s3://bucket")
