"""A proxy in front of an S3 server that fails as networks and servers do: once per rule, then it is honest again."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

STATUS = {
    "503": (503, "SlowDown"),
    "500": (500, "InternalError"),
    "429": (429, "TooManyRequests"),
    "403": (403, "ExpiredToken"),
    "409": (409, "ConditionalRequestConflict"),
    "404": (404, "NoSuchKey"),
    "denied": (403, "AccessDenied"),
    "no bucket": (404, "NoSuchBucket"),
}


@dataclass
class Fault:
    """What happens to the first `times` requests of a method, "" for any, whose path contains `part`.

    after: so many of them are let through before.
    """

    kind: str
    method: str
    part: str
    times: int = 1
    after: int = 0
    met: int = 0
    passed: int = 0


@dataclass
class Proxy:
    """A running proxy; endpoint is where clients go, sent are paths of requests and bytes of their answers."""

    endpoint: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: list[tuple[str, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault_for(self, method: str, path: str) -> str:
        with self.lock:
            self.requests.append((method, path))
            for fault in self.faults:
                if fault.method in ("", method) and fault.part in path and fault.met < fault.times:
                    if fault.passed < fault.after:
                        fault.passed += 1
                        continue
                    fault.met += 1
                    return fault.kind
        return ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy
    target: str
    pause: float

    def log_message(self, *_: object) -> None:
        """Be silent."""

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self._chunked() if "chunked" in self.headers.get("Transfer-Encoding", "") else self.rfile.read(length)
        kind = self.proxy.fault_for(self.command, self.path)
        if kind in STATUS:
            self._refuse(*STATUS[kind])
            return
        if kind == "timeout before":
            self._hang()
            return
        status, headers, data = self._forward(body)
        if kind == "timeout after":
            self._hang()
            return
        self._answer(status, headers, data, kind)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815

    def _chunked(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.target, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("transfer-encoding", "expect")}
        connection.request(self.command, self.path, body or None, {**headers, "Content-Length": str(len(body))})
        answer = connection.getresponse()
        data = answer.read()
        headers_back = [(k, v) for k, v in answer.getheaders() if k.lower() not in ("connection", "transfer-encoding")]
        connection.close()
        return answer.status, headers_back, data

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, kind: str) -> None:
        if self.command == "GET":
            self.proxy.sent.append((self.path, len(data)))
        if kind == "flip" and data:
            data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(data)))
        if kind == "short":
            data = data[: len(data) // 2]
            length = str(len(data))
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if kind in ("reset", "lying"):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self._drop(hard=kind == "reset")
        elif kind == "drip":
            for start in range(0, len(data), 64):
                self.wfile.write(data[start : start + 64])
                self.wfile.flush()
                time.sleep(0.064)
        else:
            self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        data = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data) if self.command != "HEAD" else 0))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _hang(self) -> None:
        time.sleep(self.pause)
        self._drop(hard=False)

    def _drop(self, *, hard: bool) -> None:
        if hard:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that give up are part of the game."""


@contextmanager
def proxy_to(endpoint: str, *, pause: float) -> Iterator[Proxy]:
    """Run a proxy on this machine; pause: seconds that a request hangs."""
    made = Proxy(endpoint="")
    handler = type("Handler", (_Handler,), {"proxy": made, "target": urlsplit(endpoint).netloc, "pause": pause})
    server = _Server(("127.0.0.1", 0), handler)
    made.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
