"""Who may ask the service, how much, and how often; what nobody waits for any more."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from jobs.recipe import RecipeOptions
from pipeline.search.engine import SearchIndex
from pipeline.serve.options import ServeLimits
from tests.builders import QUICK, jpeg
from tests.serve.served import CALM, Served, refused, served, small_root

RECIPE = RecipeOptions(**{**vars(QUICK), "indexes": ("flat", "ivfpq")})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_root(tmp_path_factory.mktemp("serve"), recipe=RECIPE)


@pytest.fixture(scope="module")
def site(root: Path) -> Iterator[Served]:
    with served(root) as site:
        yield site


def test_large_bodies_are_refused_before_they_are_held(root: Path) -> None:
    with served(root, limits=replace(CALM, body_bytes=20_000)) as site:
        refused(site.image(b"x" * 30_000), 413, "bytes, more than 20000")

        def pieces() -> Iterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
            for _ in range(1000):
                yield b"x" * 1000

        try:
            response = site.client.post(
                "/search", content=pieces(), headers={"content-type": "multipart/form-data; boundary=b"}
            )
            refused(response, 413, "more than 20000")
        except httpx.WriteError:
            pass  # the service hangs up on who goes on sending
        assert site.image(jpeg(1)).status_code == 200


def test_a_token_is_asked_for_where_there_is_one(root: Path) -> None:
    with served(root, token="a-long-enough-token") as site:
        for path in (
            "/snapshot",
            "/similar/0001.jpg",
            "/images/0001.jpg",
            "/metrics",
            "/none",
        ):
            response = site.client.get(path)
            refused(response, 401, "token")
            assert response.headers["www-authenticate"] == "Bearer"
        for path in ("/", "/page.js", "/page.css", "/healthz", "/readyz", "/openapi.json", "/docs"):
            assert site.client.get(path).status_code == 200
        assert site.client.get("/openapi.json").json()["components"]["securitySchemes"]
        for header in ("Bearer wrong", "a-long-enough-token", "bearer", "Bearer \u0019"):
            assert site.client.get("/snapshot", headers={"authorization": header}).status_code == 401
        right = {"authorization": "Bearer a-long-enough-token"}
        assert site.client.get("/snapshot", headers=right).json()["snapshot"] == 1


def test_probes_come_by_any_name_and_by_head(site: Served) -> None:
    for path in ("/healthz", "/readyz"):
        response = site.client.head(path, headers={"host": "10.1.2.3:8080"})
        assert (response.status_code, response.content) == (200, b"")
    assert site.client.head("/snapshot").status_code == 405


def test_nobody_says_for_whom_he_asks(root: Path) -> None:
    with served(root, limits=ServeLimits(rate=1)) as site:
        headers = [{"x-forwarded-for": f"10.0.0.{number}"} for number in range(8)]
        found = [site.client.get("/similar/0001.jpg", headers=one).status_code for one in headers]
        assert found.count(429) >= 3


def test_the_first_fault_of_many_is_told_at_once(site: Served) -> None:
    body = b'{"vectors":[' + b",".join([b"[" + b",".join([b'""'] * 2000) + b"]"] * 4) + b"]}"
    response = site.client.post("/search/vectors", content=body, headers={"content-type": "application/json"})
    refused(response, 422, "vectors.0.0: Input should be a valid number")
    refused(site.client.post("/search/vectors", content=b"x" * 2_000_000), 413, "more than [0-9]+ bytes as JSON")


def test_many_vectors_are_not_scored_exactly_without_bound(site: Served, root: Path) -> None:
    with SearchIndex.open(str(root)) as index:
        dim = index.dim
    body = {"vectors": [[1.0] * dim] * 60, "ask": {"index": "ivfpq", "rerank": 1000}}
    refused(site.client.post("/search/vectors", json=body), 400, "60 vectors: are more than 10000 to score exactly")


def test_who_has_hung_up_is_not_searched_for(root: Path) -> None:
    with served(root) as site:
        hold, done = threading.Event(), []
        plain = site.service.by_key

        def slow(*arguments: object) -> object:
            hold.wait(20)
            done.append(1)
            return plain(*arguments)  # type: ignore[arg-type]

        object.__setattr__(site.service, "by_key", slow)
        for _ in range(12):
            try:
                httpx.get(f"{site.url}/similar/0001.jpg", timeout=0.2)
            except httpx.ReadTimeout:
                continue
        time.sleep(1)
        hold.set()
        assert site.client.get("/similar/0002.jpg").status_code == 200
        # Those that had begun ended; the others waited for nobody.
        assert len(done) <= max(2, os.cpu_count() or 1) + 1


def test_other_names_are_refused(site: Served) -> None:
    for name in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
        assert site.client.get("/snapshot", headers={"host": name}).status_code in (400, 421)
    for name in ("localhost", "LOCALHOST:1", "[::1]:8080"):
        assert site.client.get("/snapshot", headers={"host": name}).status_code == 200


def test_clients_are_held_to_their_rate(root: Path) -> None:
    with served(root, limits=ServeLimits(rate=1)) as site:
        found = [site.client.get("/similar/0001.jpg", params={"k": 1}) for _ in range(8)]
        assert {response.status_code for response in found} == {200, 429}
        late = next(response for response in found if response.status_code == 429)
        refused(late, 429, "more than 3 requests in 3 seconds")
        assert late.headers["retry-after"] == "1"
        assert site.client.get("/images/0001.jpg").status_code == 200


def test_beyond_the_places_clients_are_sent_away(root: Path) -> None:
    with served(root, limits=replace(CALM, searches=1)) as site:
        hold = threading.Event()
        service = site.service
        plain = service.by_key

        def slow(*arguments: object) -> object:
            hold.wait(20)
            return plain(*arguments)  # type: ignore[arg-type]

        object.__setattr__(service, "by_key", slow)
        first: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: first.append(site.client.get("/similar/0001.jpg")))
        thread.start()
        while 'search"} 1.0' not in site.client.get("/metrics").text:
            pass
        with httpx.Client(base_url=site.url) as other:
            refused(other.get("/similar/0002.jpg"), 503, "in hand already")
        hold.set()
        thread.join()
        assert first[0].status_code == 200
