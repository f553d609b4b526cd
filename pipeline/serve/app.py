"""The HTTP service: routes over a Service. What a route does is in service.py, who may call it in guard.py and desk.py,
how requests are read in reading.py.

Every error is one line of JSON with its reason, and never a traceback. Like results, it may name where images lie.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.convertors import Convertor, register_url_convertor

from pipeline.serve import page, reading
from pipeline.serve.desk import Desk, Rate
from pipeline.serve.guard import App, Guard
from pipeline.serve.metrics import ServeMetrics
from pipeline.serve.models import About, Answer, Answers, Ask, QueryModel, SimilarAsk, State, parse_box
from pipeline.serve.problems import PROBLEMS, Responses, explain
from pipeline.serve.service import Found, Service

Key = Annotated[str, Path(max_length=4096, description="key of an indexed image")]
LOOK = 0.25
"""Seconds between looks whether a client is still there."""


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
        self._locating = Desk("locate", max(1, cores // 2), limits.locating, metrics)
        # Thumbnails wait for the store more than they compute.
        self._pictures = Desk("picture", max(4, cores), limits.pictures, metrics)
        self._rate = Rate(limits.rate)
        self.ready = False

    def close(self) -> None:
        """End the threads."""
        self._searches.close()
        self._locating.close()
        self._pictures.close()

    async def search(self, request: Request) -> Answer:
        """Search with an uploaded image, or with a box of it."""
        self._take(request)
        async with reading.form(request) as form:
            corners = _box(form.ask.box)
            work = functools.partial(self._service.by_image, box=corners, ask=form.ask)
            found = await self._searched(request, form.ask, lambda gone: work(form.data(), gone=gone))
        return Answer(query=QueryModel(width=found.size[0], height=found.size[1], box=corners), **_answer(found))

    async def similar(self, request: Request, key: Key, ask: Annotated[SimilarAsk, Query()]) -> Answer:
        """Search with an indexed image, or with a box of it; the image itself is left out."""
        self._take(request)
        corners = _box(ask.box)
        found = await self._searched(request, ask, lambda gone: self._service.by_key(key, corners, ask, gone))
        size = {"width": found.size[0], "height": found.size[1]}
        return Answer(query=QueryModel(key=key, box=corners, **size), **_answer(found))

    async def vectors(self, request: Request) -> Answers:
        """Search with vectors that were made elsewhere by the snapshot's recipe."""
        self._take(request)
        data = await reading.body(request, self._service.longest_vectors)
        found = await self._searched(request, None, lambda _: self._service.by_vectors(reading.vectors(data)))
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
        """Tell whether searches are answered: an index is open."""
        return JSONResponse({"status": "ready" if self.ready else "not ready"}, 200 if self.ready else 503)

    async def metrics(self) -> PlainTextResponse:
        """Return the metrics in Prometheus's text form."""
        with self._service.live.use() as opened:
            self._metrics.snapshot.set(opened.index.snapshot.version)
            self._metrics.images.set(opened.index.images)
        self._metrics.failures.set(self._service.live.failures)
        return PlainTextResponse(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def _take(self, request: Request) -> None:
        """Count a search of a client, before anything of it is read."""
        self._rate.take(request.client.host if request.client else "")

    async def _searched(self, request: Request, ask: Ask | None, work: Callable[[threading.Event], Found]) -> Found:
        """Do a search in a thread; work hears when the client has hung up. What locates has a desk of its own."""
        desk = self._locating if ask is not None and ask.locate else self._searches
        gone = threading.Event()
        async with desk.place():
            watch = asyncio.create_task(_watch(request, gone))
            try:
                found = await desk.do(functools.partial(work, gone), gone)
            finally:
                watch.cancel()
        for phase, seconds in found.seconds.items():
            self._metrics.phases.labels(phase).observe(seconds)
        return found


async def _watch(request: Request, gone: threading.Event) -> None:
    """Set `gone` when the client hangs up."""
    while not await request.is_disconnected():
        await asyncio.sleep(LOOK)
    gone.set()


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

    # Only described here: the guard asks for the token before a route is looked for.
    secured = [Depends(HTTPBearer(auto_error=False))] if service.options.token else []
    app = FastAPI(
        dependencies=secured,
        title="Sightline",
        version="1",
        description="Search over a published snapshot of an image collection.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _add(app, routes)
    page.add(app)
    explain(app)
    guarded: App = Guard(app, service.options, metrics)
    return guarded


def _add(app: FastAPI, routes: Routes) -> None:
    """Add the routes, with what they may answer."""
    add = functools.partial(app.add_api_route, responses=PROBLEMS)
    post = functools.partial(add, methods=["POST"], tags=["search"], response_model_exclude_none=True)
    post("/search", routes.search, openapi_extra=reading.FORM)
    post("/search/vectors", routes.vectors, openapi_extra=reading.VECTORS)
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


__all__ = ["create_app"]
