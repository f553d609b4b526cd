"""An S3 service that answers every GET of an object with the same bytes after a pause; in a process of its own.

It spends as little time as it can, so that what is measured is the client. No signature is checked.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WHEN = "Wed, 01 Jan 2025 00:00:00 GMT"


def answer(data: bytes) -> bytes:
    """The whole answer to a GET."""
    head = f'HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\nETag: "1"\r\nLast-Modified: {WHEN}\r\n\r\n'
    return head.encode() + data


class Connection(asyncio.Protocol):
    """One client; requests have no body and come one after the other."""

    def __init__(self, reply: bytes, pause: float) -> None:
        self._reply, self._pause, self._read = reply, pause, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where to answer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer whole requests, each after the pause."""
        self._read += data
        while b"\r\n\r\n" in self._read:
            _, self._read = self._read.split(b"\r\n\r\n", 1)
            asyncio.get_running_loop().call_later(self._pause, self._transport.write, self._reply)


async def serve(data: bytes, pause: float) -> None:
    """Serve until killed; prints the port."""
    reply = answer(data)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(reply, pause), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def slow_s3(file: Path, pause: float) -> Iterator[str]:
    """Run a service; yield its endpoint."""
    command = [sys.executable, "-m", "tests.benchmarks.slow_s3", str(file), str(pause)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]).read_bytes(), float(sys.argv[2])))
