"""Images are read once: bytes that come from the source, over the bytes of its files, locally and from S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from pipeline.core import memory
from pipeline.core.storage import open_store
from tests.builders import QUICK, jpeg, run, tar_bytes
from tests.faulty import Watched
from tests.s3_proxy import Proxy, proxy_to

MOST = 1.05


def files(kind: str) -> dict[str, bytes]:
    """A source of a kind: 60 photographs of some 20 kB."""
    images = {f"{number:03d}.jpg": jpeg(number, 640, 480) for number in range(60)}
    if kind == "folder":
        return images
    names = sorted(images)
    return {f"{part}.tar": tar_bytes({name: images[name] for name in names[part::3]}) for part in range(3)}


class Counting:
    """A hook and a file that add up what is read."""

    def __init__(self) -> None:
        self.total = 0

    def __call__(self, kind: str, name: str, carry_out: Callable[..., Any]) -> Any:
        result = carry_out()
        if kind == "read":
            self.total += len(result)
        return self.counted(result) if kind == "open" else result

    def counted(self, file: BinaryIO) -> BinaryIO:
        counting, read = self, file.read

        class Counted:
            def read(self, size: int = -1) -> bytes:
                data = read(size)
                counting.total += len(data)
                return data

            def readinto(self, buffer: memoryview) -> int:
                data = self.read(len(buffer))
                buffer[: len(data)] = data
                return len(data)

            def __enter__(self) -> Counted:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

        return Counted()  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_local_files_are_read_once(tmp_path: Path, kind: str) -> None:
    store = open_store(str(tmp_path / "src"))
    for name, data in files(kind).items():
        store.write(name, data)
    counting = Counting()
    memory.register("counting-source", Watched(store, counting))
    report = run("memory://counting-source", tmp_path / "root", recipe=QUICK)
    assert report.images["indexed"] == 60
    needed = sum(map(len, files(kind).values()))
    assert needed <= counting.total <= MOST * needed


@pytest.fixture(scope="module")
def proxy(ceph: str) -> Iterator[Proxy]:
    with proxy_to(ceph, pause=1.0) as made:
        yield made


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_objects_are_read_once(bucket: str, proxy: Proxy, tmp_path: Path, kind: str) -> None:
    store = open_store(f"{bucket}/src")
    for name, data in files(kind).items():
        store.write(name, data)
    proxy.sent.clear()
    report = run(f"{bucket}/src?endpoint={proxy.endpoint}", tmp_path / "root", recipe=QUICK)
    assert report.images["indexed"] == 60
    needed = sum(map(len, files(kind).values()))
    assert needed <= sum(size for _, size in proxy.sent) <= MOST * needed
