from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import ReadError, UserError
from pipeline.core.local import LocalStore
from pipeline.core.storage import Walk, open_store, walk
from pipeline.core.walk import walk_folder
from tests.builders import write_files


def paths(folder: Path, noted: Walk | None = None) -> list[str]:
    return [entry.path for entry in walk(open_store(str(folder)), noted or Walk())]


def without_privileges(script: str, folder: Path) -> str:
    """Run a script as a user whom permissions bind; root is bound by none."""
    less = "-dac_override,-dac_read_search"
    prefix = ["setpriv", f"--bounding-set={less}", f"--inh-caps={less}"] if os.getuid() == 0 else []
    command = [*prefix, sys.executable, "-c", script, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


LISTED = """
import sys
from pipeline.core.errors import SightlineError
from pipeline.core.local import LocalStore
from pipeline.core.storage import Walk
store, noted = LocalStore(sys.argv[1]), Walk()
try:
    print([entry.path for entry in store.walk(noted)], noted.unreadable)
except SightlineError as error: print(type(error).__name__, error)
try: print([entry.path for entry in store.list()])
except SightlineError as error: print(type(error).__name__, error)
"""


def test_an_unreadable_folder_is_noted_and_the_rest_is_listed(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": b"a", "b/c.jpg": b"c", "b/d/e.jpg": b"e", "f.jpg": b"f", "g/h.jpg": b"h"})
    (tmp_path / "b").chmod(0)
    (tmp_path / "g").chmod(0o400)  # names can be read there, files cannot
    try:
        told, strict = without_privileges(LISTED, tmp_path).splitlines()
    finally:
        (tmp_path / "b").chmod(0o700)
        (tmp_path / "g").chmod(0o700)
    assert told == "['a.jpg', 'f.jpg'] ['b/', 'g/']"
    assert strict.startswith("ReadError b/: cannot be listed (Permission denied)"), "ROOT's own listing is whole"


def test_a_source_that_cannot_be_listed_at_all_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": b"a"})
    tmp_path.chmod(0)
    try:
        told, _ = without_privileges(LISTED, tmp_path).splitlines()
    finally:
        tmp_path.chmod(0o700)
    assert told.startswith(f"UserError {tmp_path}: cannot be listed (Permission denied)")
    with pytest.raises(UserError, match="cannot be listed"):
        paths(tmp_path / "nowhere")


def test_what_vanishes_meanwhile_is_not_listed(tmp_path: Path) -> None:
    files = {f"{folder}/{number}.jpg": b"x" for folder in "abc" for number in range(3)}
    write_files(tmp_path, files)
    store = LocalStore(str(tmp_path))
    for listing in (store.walk(Walk()), store.list()):
        write_files(tmp_path, files)
        seen = [next(listing).path]
        shutil.rmtree(tmp_path / "b")
        (tmp_path / "a" / "2.jpg").unlink()
        seen += [entry.path for entry in listing]
        assert seen == ["a/0.jpg", "a/1.jpg", "c/0.jpg", "c/1.jpg", "c/2.jpg"]


def test_links_that_lead_nowhere_are_counted_not_listed(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": b"a"})
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "itself.jpg").symlink_to(tmp_path / "itself.jpg")
    noted = Walk()
    assert paths(tmp_path, noted) == [entry.path for entry in LocalStore(str(tmp_path)).list()] == ["a.jpg"]
    assert noted == Walk(special=2)


def test_special_files_are_counted_not_listed(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": b"a"})
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
        noted = Walk()
        assert paths(tmp_path, noted) == ["a.jpg"]
    assert (noted.special, noted.unreadable) == (3, [])


def test_a_folder_that_is_not_there_is_empty_and_one_that_cannot_be_opened_is_not(tmp_path: Path) -> None:
    assert list(walk_folder(str(tmp_path / "nothing"), "x/", None)) == []
    long = "/".join(["n" * 250] * 20)
    with pytest.raises(ReadError, match=os.strerror(errno.ENAMETOOLONG)):
        list(walk_folder(f"{tmp_path}/{long}", "x/", None))


@pytest.fixture
def latin(tmp_path: Path) -> Path:
    base = os.fsencode(tmp_path)
    Path(os.fsdecode(base + b"/caf\xe9")).mkdir()
    names = (b"/Mu\xf1oz.jpg", b"/Mu\\xf1oz.jpg", b"/Mu\\x5cxf1oz.jpg", b"/caf\xe9/a.jpg", b"/caf\xc3\xa9.jpg")
    for name in names:
        Path(os.fsdecode(base + name)).write_bytes(name)
    return tmp_path


def test_names_that_are_not_utf8_open_by_their_real_bytes_and_none_collides(latin: Path) -> None:
    store = LocalStore(str(latin))
    listed = [entry.path for entry in store.list()]
    assert sorted(listed) == sorted(
        ["Mu\\xf1oz.jpg", "Mu\\x5cxf1oz.jpg", "Mu\\x5cx5cxf1oz.jpg", "caf\\xe9/a.jpg", "café.jpg"]
    )
    assert listed == sorted(listed, key=str.encode)
    base = os.fsencode(latin)
    for name in listed:
        data = store.read(name)
        assert Path(os.fsdecode(base + data)).exists(), "each file holds its own name"
        assert store.stat(name).size == len(data)
        assert store.local(name, latin).read_bytes() == data
    assert len({store.read(name) for name in listed}) == 5


def test_a_folder_with_such_a_name_is_a_location_too(latin: Path) -> None:
    store = open_store(os.fsdecode(os.fsencode(latin) + b"/caf\xe9"))
    assert store.url == f"{latin}/caf\\xe9"
    again = open_store(store.url)  # as a snapshot records it
    assert [entry.path for entry in again.list()] == ["a.jpg"]
