"""A service on a port of its own, in a thread, as tests want one; and what a client needs to talk to it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from pipeline.search.live import LiveOptions
from pipeline.serve.listen import configured
from pipeline.serve.options import ListenOptions, ServeLimits, ServeOptions
from pipeline.serve.service import Service
from tests.builders import images, run, write_files

CALM = ServeLimits(rate=0)


@dataclass(frozen=True, kw_only=True)
class Served:
    url: str
    port: int
    client: httpx.Client
    service: Service

    def image(self, data: bytes, **fields: Any) -> httpx.Response:
        return self.client.post("/search", files={"image": ("x.jpg", data)}, data=fields)


@contextmanager
def served(root: Path, *, limits: ServeLimits = CALM, every: float = 0, **more: Any) -> Iterator[Served]:
    """Serve ROOT until the block ends."""
    options = ServeOptions(root=str(root), limits=limits, live=LiveOptions(every=every), device="cpu", **more)
    with Service(options) as service:
        config = configured(service, ListenOptions(port=0))
        socket = config.bind_socket()
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        port = socket.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                yield Served(url=url, port=port, client=client, service=service)
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            socket.close()


def small_root(folder: Path, count: int = 24, **more: Any) -> Path:
    """Index some small pictures."""
    run(write_files(folder / "src", images(count)), folder / "root", files=7, **more)
    return folder / "root"


def refused(response: httpx.Response, status: int, words: str) -> None:
    assert response.status_code == status, response.text
    assert re.search(words, response.json()["error"]), response.text
    assert "\n" not in response.json()["error"]
