"""This process's connection to Ray: made by the first who needs it, ended by the last one that made use of it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout

import ray
from ray.exceptions import RayError

from pipeline.core.errors import UserError
from pipeline.run.base import describe
from pipeline.run.guard import check_cluster

_GUARD = threading.Lock()
_users = 0
_redirected = ExitStack()


class Connection:
    """One user's hold on the connection. A private local Ray is started when no address is given.

    A Ray that this process had before is left as it is.
    """

    def __init__(self, address: str) -> None:
        global _users  # noqa: PLW0603 - Ray has one connection per process
        with _GUARD:
            if not ray.is_initialized():
                _start(address)
                _users = 0
                self._counts = True
            else:
                self._counts = _users > 0
            _users += self._counts

    def close(self) -> None:
        """Let go; the last one to do so shuts down what was started."""
        global _users  # noqa: PLW0603 - as above
        with _GUARD:
            if not self._counts:
                return
            self._counts = False
            _users -= 1
            if not _users:
                ray.shutdown()
                _redirected.close()


def _start(address: str) -> None:
    # Ray tells on stdout what becomes of nodes; stdout is for results.
    _redirected.enter_context(redirect_stdout(sys.stderr))
    # Usage statistics go to a third party, and the dashboard is an open port: both stay off.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _connect(address)
    except BaseException:
        _redirected.close()
        raise


def _connect(address: str) -> None:
    with _own_signals():
        _join(address)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the caller's way of ending: Ray's own handler of SIGTERM leaves with another code and no word."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _join(address: str) -> None:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
    if not address:
        ray.init(**quiet)
        return
    try:
        context = ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RayError) as error:
        raise UserError(
            f"--address {address}", f"cannot be reached ({describe(error)})", "is the head running?"
        ) from None
    try:
        check_cluster(context.dashboard_url or "", os.environ)
    except UserError:
        ray.shutdown()
        raise
