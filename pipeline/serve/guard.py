"""What stands before the routes, as plain ASGI: hosts, token, size and pace of bodies, headers, counting, and errors.

Bodies are counted as they come, so that what is too large is refused before it is held.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect

from pipeline.serve.metrics import ServeMetrics
from pipeline.serve.options import ServeOptions
from pipeline.serve.page import STATIC, SWAGGER

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/healthz", "/readyz")
"""Paths that never want a token: whoever watches over the process asks them."""
PAGE = (*STATIC, "/docs", *(f"/docs/{name}" for name in SWAGGER), "/openapi.json")
"""The page and the documentation hold nothing of the collection; the page asks its reader for the token."""
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)
NOTHING = b"default-src 'none'; frame-ancestors 'none'"
"""Content policy of whatever does not set its own."""
log = logging.getLogger("sightline.serve")


class Guard:
    """See the module."""

    def __init__(self, app: App, options: ServeOptions, metrics: ServeMetrics) -> None:
        self._app, self._options, self._metrics = app, options, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the app answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD" and scope["path"] in OPEN:
            # Probes ask so, too; uvicorn leaves the body out.
            scope = {**scope, "method": "GET"}
        exchange = _Exchange(scope, receive, send, self._options)
        started = time.perf_counter()
        try:
            refused = self._refusal(scope)
            if refused is not None:
                await exchange.refuse(*refused)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            # The client has gone, or has been answered already.
            pass
        except Exception:
            log.exception("a request failed")
            await exchange.refuse(500, "internal error; the log of the service says more")
        finally:
            # The route's template, never the path: that holds keys, and there would be no end of series.
            route = str(getattr(scope.get("route"), "path", "none"))
            self._metrics.requests.labels(route, str(exchange.status or 499)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        hosts = self._options.hosts
        token, path = self._options.token, scope["path"]
        # Probes come by whatever address a machine has, and learn nothing.
        if hosts is not None and path not in OPEN and _hostname(headers.get(b"host", b"")) not in hosts:
            return 421, "this service does not go by that name"
        if token and path not in (*OPEN, *PAGE):
            sent = headers.get(b"authorization", b"")
            if not hmac.compare_digest(sent, f"Bearer {token}".encode()):
                return 401, "a bearer token is wanted"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._options.limits.body_bytes:
            return 413, f"the request has {int(length)} bytes, more than {self._options.limits.body_bytes}"
        return None


def _hostname(host: bytes) -> str:
    name = host.decode("latin-1").strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


class _Exchange:
    """One request and its response, watched: what is refused half-way gets one answer, and the app hears it is over."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, options: ServeOptions) -> None:
        self.status = 0
        self._scope, self._receive, self._send, self._options = scope, receive, send, options
        self._count, self._complete, self._over = 0, False, False
        self._deadline = time.monotonic() + options.limits.body_seconds

    async def receive(self) -> Message:
        """Return the next piece of the body, within the limits."""
        if self._over:
            return {"type": "http.disconnect"}
        if self._complete:
            return await self._receive()
        limits = self._options.limits
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._deadline - time.monotonic()))
        except TimeoutError:
            await self.refuse(408, f"the request did not arrive within {limits.body_seconds:g} seconds")
            return {"type": "http.disconnect"}
        self._count += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._count > limits.body_bytes:
            await self.refuse(413, f"the request has more than {limits.body_bytes} bytes")
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        """Pass the app's answer on, with our headers; nothing after an answer of our own."""
        if self._over:
            return
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            there = {name.lower() for name, _ in message["headers"]}
            more = [pair for pair in (*HEADERS, (b"content-security-policy", NOTHING)) if pair[0] not in there]
            message = {**message, "headers": [*message["headers"], *more]}
        await self._send(message)

    async def refuse(self, status: int, reason: str) -> None:
        """Answer in the app's place, unless it has begun to; the connection ends, what is still coming is not read."""
        if self.status:
            return
        body = json.dumps({"error": reason}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"connection", b"close")]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
        self._over = True
