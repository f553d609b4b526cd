from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.core.errors import ExistsError, NotFoundError, PlaceError, ReadError, StoreError
from pipeline.core.local import LocalStore
from pipeline.core.os_errors import reading, using, writing

OF_READING = ["EIO", "ESTALE", "ENOTCONN", "EACCES", "EPERM", "EMFILE", "ENFILE", "ETIMEDOUT", "EHOSTDOWN", "ENODEV"]
OF_PLACES = ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "ESTALE", "ENOTCONN"]


def error_of(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("name", [*OF_READING, "EREMOTEIO", "ECONNRESET", "ENXIO", "EINVAL"])
def test_what_fails_in_reading_says_nothing_of_the_bytes(name: str) -> None:
    with pytest.raises(ReadError, match=r"^a\.jpg: "), reading("a.jpg"):
        raise error_of(name)


@pytest.mark.parametrize("name", ["ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "ENAMETOOLONG"])
def test_a_name_that_no_file_has_is_not_an_error_of_reading(name: str) -> None:
    with pytest.raises(NotFoundError), reading("a.jpg"):
        raise error_of(name)


@pytest.mark.parametrize("name", OF_PLACES)
def test_a_place_that_cannot_be_written_is_named(name: str) -> None:
    with pytest.raises(PlaceError, match=r"^/root: cannot be written"), writing("a.json", "/root"):
        raise error_of(name)
    with pytest.raises(PlaceError, match=r"^/scratch: cannot be written"), using("/scratch"):
        raise error_of(name)


def test_other_errors_of_writing_cost_one_object() -> None:
    with pytest.raises(StoreError) as caught, writing("a.json", "/root"):
        raise error_of("EMFILE")
    assert type(caught.value) is StoreError
    with pytest.raises(ExistsError), writing("a.json", "/root"):
        raise error_of("EEXIST")


def test_a_read_that_fails_half_way_is_translated_too() -> None:
    # The kernel answers EIO to a read of unmapped memory: a file that opens and cannot be read.
    store = LocalStore("/proc/self")
    with store.open("mem") as file, pytest.raises(ReadError, match="mem: "):
        file.read(10)
    with pytest.raises(ReadError, match="mem: "):
        store.read("mem")


def test_too_many_open_files_is_an_error_of_reading(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    script = (
        "import os, resource, sys\n"
        "from pipeline.core.errors import ReadError\n"
        "from pipeline.core.local import LocalStore\n"
        "store = LocalStore(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))\n"
        "open_files = []\n"
        "try:\n"
        "    while True: open_files.append(os.open('/dev/null', os.O_RDONLY))\n"
        "except OSError: pass\n"
        "try: store.read('a.jpg')\n"
        "except ReadError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"a.jpg: Too many open files (in {tmp_path})"


def test_a_file_in_the_place_of_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "snapshots").write_bytes(b"")
    for write in (LocalStore(str(tmp_path)).write, LocalStore(str(tmp_path)).put_if_absent):
        with pytest.raises(PlaceError, match="move it away"):
            write("snapshots/1.json", b"x")


def test_special_files_never_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket.jpg"))
    store = LocalStore(str(tmp_path))

    def use(name: str) -> None:
        for call in (store.read, store.open, store.stat, lambda name: store.local(name, tmp_path)):
            with pytest.raises(NotFoundError, match="no regular file"):
                call(name)
        assert not store.exists(name)

    try:
        for name in ("pipe.jpg", "device.jpg", "socket.jpg"):
            thread = threading.Thread(target=use, args=(name,), daemon=True)
            thread.start()
            thread.join(20)
            assert not thread.is_alive(), f"{name} blocks"
    finally:
        server.close()


def test_a_pipe_that_a_shell_names_is_read() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"a.jpg\n")
    os.close(writer)
    assert LocalStore("/dev/fd").read(str(reader)) == b"a.jpg\n"
    os.close(reader)
