"""The HTTP service: routes over a Service. What a route does is in service.py, who may call it in guard.py and desk.py.

Every error is one line of JSON with its reason; nothing of a traceback, of a path or of a setting leaves the process.
"""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, HTTPException, Path, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException as StarletteHTTPException

from pipeline.core.errors import SightlineError, TransientError, UserError
from pipeline.serve import page
from pipeline.serve.desk import BusyError, Desk, Rate
from pipeline.serve.guard import App, Guard
from pipeline.serve.metrics import ServeMetrics
from pipeline.serve.models import (
    BOX,
    About,
    Answer,
    Answers,
    Ask,
    Problem,
    QueryModel,
    SimilarAsk,
    State,
    VectorsAsk,
    parse_box,
)
from pipeline.serve.opened import UnknownImageError
from pipeline.serve.service import Found, Service

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
Key = Annotated[str, Path(max_length=4096, description="key of an indexed image")]


def form_ask(
    k: Annotated[int, Form(ge=1, le=1000)] = 10,
    index: Annotated[str, Form(max_length=40)] = "",
    rerank: Annotated[int | None, Form(ge=0, le=100_000)] = None,
    effort: Annotated[int | None, Form(ge=1, le=1_000_000)] = None,
    verify: Annotated[int, Form(ge=0, le=1000)] = 0,
    locate: Annotated[bool, Form()] = False,
    where: Annotated[str, Form(max_length=2000)] = "",
) -> Ask:
    """Return the search parameters of a form; see models.Ask."""
    return Ask(k=k, index=index, rerank=rerank, effort=effort, verify=verify, locate=locate, where=where)


class KeyConvertor(Convertor[str]):
    """Keys in paths: anything, slashes and newlines too."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """Return the key."""
        return value

    def to_string(self, value: str) -> str:
        """Return the key."""
        return value


register_url_convertor("key", KeyConvertor())


class Routes:
    """The routes of one service, and the threads that do their work."""

    def __init__(self, service: Service, metrics: ServeMetrics) -> None:
        limits, cores = service.options.limits, os.cpu_count() or 1
        self._service, self._metrics = service, metrics
        self._searches = Desk("search", max(2, cores), limits.searches, metrics)
        # Thumbnails wait for the store more than they compute.
        self._pictures = Desk("picture", max(4, cores), limits.pictures, metrics)
        self._rate = Rate(limits.rate)
        self.ready = False

    def close(self) -> None:
        """End the threads."""
        self._searches.close()
        self._pictures.close()

    async def search(
        self,
        request: Request,
        image: Annotated[UploadFile, File(description="the encoded image")],
        ask: Annotated[Ask, Depends(form_ask)],
        box: Annotated[
            str | None, Form(pattern=BOX, max_length=200, description="X,Y,W,H in pixels of the image")
        ] = None,
    ) -> Answer:
        """Search with an uploaded image, or with a box of it."""
        corners = _box(box)
        found = await self._searched(request, lambda data: self._service.by_image(data, corners, ask), image.read)
        return Answer(query=QueryModel(width=found.size[0], height=found.size[1], box=corners), **_answer(found))

    async def similar(self, request: Request, key: Key, ask: Annotated[SimilarAsk, Query()]) -> Answer:
        """Search with an indexed image, or with a box of it; the image itself is left out."""
        corners = _box(ask.box)
        found = await self._searched(request, lambda _: self._service.by_key(key, corners, ask))
        size = {"width": found.size[0], "height": found.size[1]}
        return Answer(query=QueryModel(key=key, box=corners, **size), **_answer(found))

    async def vectors(self, request: Request, body: VectorsAsk) -> Answers:
        """Search with vectors that were made elsewhere by the snapshot's recipe."""
        found = await self._searched(request, lambda _: self._service.by_vectors(body))
        hits = [[hit.to_json() for hit in mine] for mine in found.hits]
        return Answers.model_validate(
            {"snapshot": found.snapshot, "index": found.index, "results": hits, "seconds": found.seconds}
        )

    async def picture(
        self, request: Request, key: Key, size: Annotated[int, Query(ge=1, le=2048, description="pixels a side")] = 512
    ) -> Response:
        """Return an indexed image as a JPEG of limited size, made anew of the original."""
        async with self._pictures.place():
            data, tag = await self._pictures.do(functools.partial(self._service.picture, key, size))
        headers = {"ETag": tag, "Cache-Control": "private, max-age=60"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(data, media_type="image/jpeg", headers=headers)

    async def about(self) -> About:
        """Tell which snapshot answers now, and what can be asked of it."""
        return await self._pictures.do(self._service.about)

    async def health(self) -> State:
        """Tell that the process is alive."""
        return State(status="alive")

    async def readiness(self) -> JSONResponse:
        """Tell whether searches are answered: not before an index is open, and not while the process ends."""
        return JSONResponse({"status": "ready" if self.ready else "not ready"}, 200 if self.ready else 503)

    async def metrics(self) -> PlainTextResponse:
        """Return the metrics in Prometheus's text form."""
        live = self._service.live
        self._metrics.snapshot.set(live.version)
        self._metrics.failures.set(live.failures)
        return PlainTextResponse(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def _searched(
        self, request: Request, work: Callable[[bytes], Found], read: Callable[[], Any] | None = None
    ) -> Found:
        self._rate.take(request.client.host if request.client else "")
        async with self._searches.place():
            # Read only now: so many bodies are in memory as there are places.
            data = await read() if read is not None else b""
            found = await self._searches.do(functools.partial(work, data))
        for phase, seconds in found.seconds.items():
            self._metrics.phases.labels(phase).observe(seconds)
        return found


def _box(text: str | None) -> tuple[float, float, float, float] | None:
    try:
        return parse_box(text)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


def _answer(found: Found) -> dict[str, Any]:
    (hits,) = found.hits
    told = [hit.to_json() for hit in hits]
    return {"snapshot": found.snapshot, "index": found.index, "hits": told, "seconds": found.seconds}


def create_app(service: Service) -> App:
    """Return the ASGI application; the service is entered by whoever runs it."""
    metrics = ServeMetrics()
    routes = Routes(service, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        routes.ready = True
        yield
        routes.ready = False
        routes.close()

    app = FastAPI(
        title="Sightline",
        version="1",
        description="Search over a published snapshot of an image collection.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    add = functools.partial(app.add_api_route, responses=PROBLEMS)
    add("/search", routes.search, methods=["POST"], tags=["search"], response_model_exclude_none=True)
    add("/search/vectors", routes.vectors, methods=["POST"], tags=["search"], response_model_exclude_none=True)
    add("/similar/{key:key}", routes.similar, methods=["GET"], tags=["search"], response_model_exclude_none=True)
    jpeg: Responses = {200: {"content": {"image/jpeg": {}}, "description": "the picture"}}
    app.add_api_route(
        "/images/{key:key}",
        routes.picture,
        methods=["GET"],
        tags=["search"],
        response_class=Response,
        responses={**PROBLEMS, **jpeg, 304: {"description": "the picture is as it was"}},
    )
    add("/snapshot", routes.about, methods=["GET"], tags=["service"])
    app.add_api_route("/healthz", routes.health, methods=["GET"], tags=["service"])
    ready: Responses = {200: {"model": State}, 503: {"model": State, "description": "not now"}}
    app.add_api_route(
        "/readyz", routes.readiness, methods=["GET"], tags=["service"], response_class=JSONResponse, responses=ready
    )
    text: Responses = {200: {"content": {"text/plain": {}}, "description": "metrics"}}
    app.add_api_route(
        "/metrics", routes.metrics, methods=["GET"], tags=["service"], response_class=PlainTextResponse, responses=text
    )
    page.add(app)
    _explain(app)
    guarded: App = Guard(app, service.options, metrics)
    return guarded


def _explain(app: FastAPI) -> None:
    """Turn every error into its status and one line."""

    def told(status: int, reason: str) -> JSONResponse:
        headers = {"Retry-After": "1"} if status in (429, 503) else None
        return JSONResponse({"error": " ".join(reason.split())[:500]}, status, headers)

    @app.exception_handler(Exception)
    async def broken(_: Request, __: Exception) -> JSONResponse:
        # Starlette raises it again afterwards, and the guard writes it to the log.
        return told(500, "internal error; the log of the service says more")

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> JSONResponse:
        return told(error.status, error.reason)

    @app.exception_handler(UnknownImageError)
    async def unknown(_: Request, error: UnknownImageError) -> JSONResponse:
        return told(404, str(error))

    @app.exception_handler(UserError)
    async def wrong(_: Request, error: UserError) -> JSONResponse:
        return told(400, str(error))

    @app.exception_handler(SightlineError)
    async def failed(_: Request, error: SightlineError) -> JSONResponse:
        return told(503 if isinstance(error, TransientError) else 500, str(error))

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


__all__ = ["create_app"]
