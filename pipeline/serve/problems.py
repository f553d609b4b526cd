"""Every error as its status and one line of JSON, and their description for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from pipeline.core.errors import ReadError, SightlineError, TransientError, UnavailableError, UserError, bare
from pipeline.serve.desk import BusyError, GoneError
from pipeline.serve.models import Problem
from pipeline.serve.opened import UnknownImageError
from pipeline.serve.reading import TooLargeError, UnreadableError

Responses = dict[int | str, dict[str, Any]]
PROBLEMS: Responses = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "the request cannot be answered as it is",
        401: "the token is missing or wrong",
        404: "no image of that key",
        408: "the request came too slowly",
        413: "the request is too large",
        422: "a parameter is out of bounds",
        429: "this client asks too often",
        503: "too much is in hand; try again",
    }.items()
}


def told(status: int, reason: str) -> JSONResponse:
    """Return an error as one line of JSON."""
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse({"error": " ".join(reason.split())[:500]}, status, headers)


def explain(app: FastAPI) -> None:
    """Turn every error into its status and one line."""

    @app.exception_handler(Exception)
    async def broken(_: Request, __: Exception) -> JSONResponse:
        # Starlette raises it again afterwards, and the guard writes it to the log.
        return told(500, "internal error; the log of the service says more")

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> JSONResponse:
        return told(error.status, error.reason)

    @app.exception_handler(GoneError)
    async def gone(_: Request, __: GoneError) -> Response:
        return Response(status_code=499)

    @app.exception_handler(TooLargeError)
    async def large(_: Request, error: TooLargeError) -> JSONResponse:
        return told(413, str(error))

    @app.exception_handler(UnreadableError)
    async def unreadable(_: Request, error: UnreadableError) -> JSONResponse:
        return told(422, str(error))

    @app.exception_handler(UnknownImageError)
    async def unknown(_: Request, error: UnknownImageError) -> JSONResponse:
        return told(404, str(error))

    @app.exception_handler(UserError)
    async def wrong(_: Request, error: UserError) -> JSONResponse:
        return told(400, str(error))

    @app.exception_handler(SightlineError)
    async def failed(_: Request, error: SightlineError) -> JSONResponse:
        passing = isinstance(error, ReadError | TransientError | UnavailableError)
        return told(503 if passing else 500, bare(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        return told(422, f"{where}: {first['msg']}")

    @app.exception_handler(StarletteHTTPException)
    async def refused(_: Request, error: StarletteHTTPException) -> JSONResponse:
        response = told(error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response
