"""uvicorn's HTTP protocol with a limit on how long the head of a request may take: slow clients hold no connection."""

from __future__ import annotations

import asyncio
import socket
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol


class GuardedProtocol(H11Protocol):
    """A connection is closed when the head of a request does not arrive in time."""

    head_seconds: ClassVar[float]
    _deadline: asyncio.TimerHandle | None = None
    _unsent = 1 << 62

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            # Head and body are two writes. asyncio does this only for sockets that say they are TCP, and uvicorn's do
            # not: measured, 45 ms an answer in place of 1.
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        try:
            super().data_received(data)
        except UnicodeDecodeError:
            # A target that is not ASCII: uvicorn decodes it without looking.
            self.send_400_response("Invalid HTTP request received.")
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next head."""
        super().on_response_complete()
        self._unsent = 1 << 62
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._unwatch()
        super().connection_lost(exc)

    @property
    def _at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        """Let the clock run while a head is awaited; a request at work has limits of its own."""
        if self._at_work:
            self._unwatch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.head_seconds, self._expire)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        if self._at_work:
            return
        left = self.transport.get_write_buffer_size()
        if 0 < left < self._unsent:
            # An answer is still on its way to a slow reader who does take it.
            self._unsent = left
            self._watch()
        elif left:
            self.transport.abort()
        else:
            self.transport.close()


def guarded(seconds: float) -> type[GuardedProtocol]:
    """Return the protocol with a limit of so many seconds."""
    return type("GuardedProtocol", (GuardedProtocol,), {"head_seconds": seconds})
