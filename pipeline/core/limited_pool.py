"""LimitedPool: threads that carry out calls, each within a time limit. A thread that hangs is abandoned and replaced.

Python cannot end a thread: a read of a dead mount or a decoder in a loop keeps its thread until it comes back, if ever.
All threads are daemons, so that none of them keeps the process from ending. Nothing here knows about images.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

EXIT_SECONDS = 5.0
"""How long the end of a pool, and of the process, waits for calls that are still within their limits."""


class HungError(RuntimeError):
    """A call that the work of this process depends on does not come back: the process cannot be relied on any more."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """seconds: how long a call may take, by its arguments; 0 is no limit. late: gives the result of a call that took
    longer, or raises its error.
    """

    seconds: Callable[..., float]
    late: Callable[..., Any]


class LimitedPool(Executor):
    """As a ThreadPoolExecutor. The time of a call counts from when a thread takes it up."""

    def __init__(
        self, threads: int, name: str, limit: Limit | None = None, *, initializer: Callable[[], Any] | None = None
    ) -> None:
        self._state = _State(threads, name, limit, initializer)
        # Threads know the state only: a pool that nobody has any more lets them go.
        weakref.finalize(self, self._state.close).atexit = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a call carried out, after those that were submitted before."""
        call = _Call(fn, args, kwargs)
        self._state.add(call)
        return call.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads go. Waits for calls under way while they are within their limits, but not for long."""
        self._state.close(cancel=cancel_futures)
        if wait:
            self._state.drain()


def busy_threads() -> list[threading.Thread]:
    """Return the threads of this process that carry out a call of a pool now, abandoned ones included."""
    return [thread for thread in threading.enumerate() if isinstance(thread, _Thread) and thread.busy]


class _Call:
    """A call, from its submission to its end. due: when it exceeds its limit."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.future: Future[Any] = Future()
        self.due = float("inf")


class _State:
    """What the threads of a pool share."""

    def __init__(self, threads: int, name: str, limit: Limit | None, initializer: Callable[[], Any] | None) -> None:
        self.most, self.name, self.limit, self.initializer = threads, name, limit, initializer
        # Garbage collection may close a pool in any thread, at any place.
        self.lock = threading.RLock()
        self.work, self.watch, self.ended = (threading.Condition(self.lock) for _ in range(3))
        self.waiting: deque[_Call] = deque()
        self.running: set[_Call] = set()
        self.threads = self.idle = self.started = 0
        self.watched = self.closed = False
        self.next_due = float("inf")
        atexit.register(self.drain)

    def add(self, call: _Call) -> None:
        """Queue a call, and start a thread where all are busy."""
        with self.lock:
            if self.closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self.waiting.append(call)
            if self.idle >= len(self.waiting):
                self.work.notify()
            else:
                self._start()

    def _start(self) -> None:
        if self.threads < self.most:
            self.threads += 1
            self.started += 1
            _Thread(self, f"{self.name}_{self.started}").start()

    def take(self) -> _Call | None:
        """Wait for a call and begin it; None when the pool is closed."""
        with self.lock:
            while True:
                while not self.waiting:
                    if self.closed:
                        self.threads -= 1
                        return None
                    self.idle += 1
                    self.work.wait()
                    self.idle -= 1
                call = self.waiting.popleft()
                if not call.future.set_running_or_notify_cancel():
                    self.ended.notify_all()
                    continue
                seconds = self.limit.seconds(*call.args, **call.kwargs) if self.limit is not None else 0.0
                if seconds > 0:
                    call.due = time.monotonic() + seconds
                    self._watch_for(call)
                self.running.add(call)
                return call

    def end(self, call: _Call) -> bool:
        """Note that a call has ended; False when it was given up before, and its thread replaced."""
        with self.lock:
            if call not in self.running:
                return False
            self.running.remove(call)
            self.ended.notify_all()
            if self.closed:
                self.watch.notify_all()
            return True

    def _watch_for(self, call: _Call) -> None:
        if not self.watched:
            self.watched = True
            threading.Thread(target=self._expire, name=f"{self.name}_limit", daemon=True).start()
        elif call.due < self.next_due:
            self.watch.notify_all()

    def _expire(self) -> None:
        """Give up calls that exceed their limits, for as long as there are any that might."""
        while True:
            with self.lock:
                late = [call for call in self.running if call.due <= time.monotonic()]
                if not late:
                    if self.closed and not self.waiting and not self.running:
                        return
                    self.next_due = min((call.due for call in self.running), default=float("inf"))
                    self.watch.wait(min(60.0, max(0.0, self.next_due - time.monotonic())))
                    continue
                for call in late:
                    self.running.remove(call)
                    self.ended.notify_all()
                    self.threads -= 1
                    if len(self.waiting) > self.idle:
                        self._start()
            for call in late:
                assert self.limit is not None, "only limited calls are due"
                _resolve(call, *_result(self.limit.late, call))

    def close(self, *, cancel: bool = False) -> None:
        """Take no more calls; threads end when none wait."""
        atexit.unregister(self.drain)
        with self.lock:
            self.closed = True
            cancelled, self.waiting = (self.waiting, deque[_Call]()) if cancel else (deque[_Call](), self.waiting)
            self.work.notify_all()
            self.watch.notify_all()
        for call in cancelled:
            call.future.cancel()

    def drain(self) -> None:
        """Wait for calls that are within their limits, for a bounded time: libraries are not to end under them."""
        end = time.monotonic() + EXIT_SECONDS
        with self.lock:
            while (self.running or (self.waiting and self.threads)) and time.monotonic() < end:
                self.ended.wait(max(0.0, end - time.monotonic()))


class _Thread(threading.Thread):
    """One thread of a pool."""

    def __init__(self, state: _State, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._state, self.busy = state, False

    def run(self) -> None:
        """Carry out calls until the pool is closed, or this thread was given up."""
        state = self._state
        if state.initializer is not None:
            state.initializer()
        while (call := state.take()) is not None:
            self.busy = True
            result = _result(call.function, call)
            self.busy = False
            if not state.end(call):
                return
            _resolve(call, *result)
            # What it was given is not to live on while it waits for the next one.
            del call, result


def _result(function: Callable[..., Any], call: _Call) -> tuple[Any, BaseException | None]:
    try:
        return function(*call.args, **call.kwargs), None
    except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
        return None, error


def _resolve(call: _Call, value: Any, error: BaseException | None) -> None:
    if error is not None:
        call.future.set_exception(error)
    else:
        call.future.set_result(value)
