"""Listening: uvicorn around the app, from the first snapshot opened until the last request answered."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import uvicorn

from pipeline.core.errors import UserError
from pipeline.serve.app import create_app
from pipeline.serve.options import ListenOptions
from pipeline.serve.protocol import guarded
from pipeline.serve.service import Service

GRACE = 20
"""Seconds that requests under way are given when the service is told to end."""
KEEP_ALIVE = 10


def configured(service: Service, options: ListenOptions) -> uvicorn.Config:
    """Return uvicorn's settings of a service, which is entered by the caller."""
    limits = service.options.limits
    return uvicorn.Config(
        create_app(service),
        host=options.host,
        port=options.port,
        http=guarded(limits.header_seconds),
        ws="none",
        # Else any client could say that it is another, and have a rate of its own.
        proxy_headers=bool(options.proxies),
        forwarded_allow_ips=list(options.proxies),
        lifespan="on",
        limit_concurrency=limits.connections,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
        server_header=False,
        access_log=False,
        log_config=None,
        ssl_certfile=options.certificate or None,
        ssl_keyfile=options.key or None,
    )


def listen(service: Service, options: ListenOptions, told: Callable[[str], None]) -> None:
    """Listen until the process is told to end (SIGTERM, SIGINT); told hears the URL once it does.

    UserError when the address cannot be had, or a TLS file not read.
    """
    for path in filter(None, (options.certificate, options.key)):
        if not Path(path).is_file():
            raise UserError(path, "is no file", "name the PEM files of certificate and key")
    config = configured(service, options)
    try:
        config.load()
    except (OSError, ValueError) as error:
        raise UserError(options.certificate, f"cannot be used ({error})", "name the PEM files of both") from None
    try:
        socket = config.bind_socket()
    except SystemExit:
        where = f"{options.host}:{options.port}"
        raise UserError(where, "cannot be listened on", "is something else there? choose another --port") from None
    host, port = socket.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    server = uvicorn.Server(config)

    def end(*_: object) -> None:
        server.should_exit = True

    # uvicorn handles signals while it serves, and raises them again at its end: whoever called us is to go on then.
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        told(f"{'https' if options.certificate else 'http'}://{shown}:{port}/")
        asyncio.run(server.serve(sockets=[socket]))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
