"""Snapshots published while clients ask: no request fails, and every answer belongs to exactly one snapshot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from jobs.delete import EditOptions, delete
from jobs.recipe import RecipeOptions
from jobs.serve import hosts_of, token_of
from pipeline.core.errors import UserError
from pipeline.search.engine import SearchIndex
from pipeline.serve.options import ListenOptions
from tests.builders import QUICK, jpeg, run, write_files
from tests.serve.served import served, small_root

RECIPE = RecipeOptions(**{**vars(QUICK), "indexes": ("flat", "ivfpq")})
OTHER = RecipeOptions(**{**vars(RECIPE), "resize": "longest:48"})


class Clients:
    """Four threads that ask, each in another way, until they are told to stop."""

    def __init__(self, url: str) -> None:
        self.answers: list[tuple[str, httpx.Response]] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url, number)) for number in range(4)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str, number: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not self._stop.is_set():
                how = ("image", "key", "ivfpq", "picture")[number % 4]
                if how == "image":
                    answer = client.post("/search", files={"image": jpeg(number)}, data={"k": 100})
                elif how == "picture":
                    answer = client.get("/images/0001.jpg")
                else:
                    params = {"k": 100, "index": "ivfpq" if how == "ivfpq" else "flat"}
                    answer = client.get("/similar/0000.jpg", params=params)
                self.answers.append((how, answer))
                number += 1


def test_publishing_under_load_fails_no_request_and_mixes_no_snapshots(tmp_path: Path) -> None:
    root = small_root(tmp_path, 12, recipe=RECIPE)
    keys: dict[int, set[str]] = {}

    def note() -> None:
        with SearchIndex.open(str(root)) as index:
            live = index.live()
            keys[index.snapshot.version] = {name.key for name in index.stored.names(live.file, live.row)}

    note()
    with served(root, every=0.05) as site, Clients(site.url) as clients:
        for step in range(5):
            write_files(tmp_path / "src", {f"new-{step}-{n}.jpg": jpeg(100 * step + n) for n in range(5)})
            if step % 2:
                delete(EditOptions(root=str(root), keys=(f"000{step + 2}.jpg",)))
                note()
            # The last one by another recipe: its network is made ready while the old one is asked.
            run(tmp_path / "src", root, recipe=OTHER if step == 4 else RECIPE)
            note()
            deadline = time.monotonic() + 30
            while site.service.live.version != max(keys):
                assert time.monotonic() < deadline
                time.sleep(0.01)
    seen = set()
    for how, response in clients.answers:
        assert response.status_code == 200, response.text
        if how != "picture":
            body = response.json()
            expected = keys[body["snapshot"]] - ({"0000.jpg"} if how != "image" else set())
            assert {hit["key"] for hit in body["hits"]} == expected
            seen.add(body["snapshot"])
    assert len(clients.answers) > 40
    assert len(seen) > 3


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    root = small_root(tmp_path, 6)
    return [sys.executable, "-m", "jobs.serve", str(root), "--port", "0", "--json", "--refresh", "0.1"]


def test_the_command_serves_until_it_is_told_to_end(command: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert (told["snapshot"], told["images"]) == (1, 6)
        with httpx.Client(base_url=told["url"], timeout=30) as client:
            deadline = time.monotonic() + 30
            while True:
                try:
                    assert client.get("/readyz").json() == {"status": "ready"}
                    break
                except httpx.ConnectError:
                    assert time.monotonic() < deadline
            assert client.get("/similar/0001.jpg").json()["snapshot"] == 1
            assert list((tmp_path / "root" / "leases").iterdir())
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "root" / "leases").iterdir())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--host", "0.0.0.0"], "is refused: others could reach it"),
        (["--indexes", "hnsw"], "--index hnsw: is not in this snapshot"),
        (["--snapshot", "9"], "has no snapshot 9"),
        (["--certificate", "x.pem"], "belong together"),
        (["--token-file", "nowhere"], "cannot be read"),
    ],
)
def test_what_cannot_be_served_is_one_line(command: list[str], more: list[str], words: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "SIGHTLINE_SERVE_TOKEN"}
    done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_port_that_is_taken_is_said(command: list[str], tmp_path: Path) -> None:
    with served(tmp_path / "root") as site:
        command[command.index("--port") + 1] = str(site.port)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "cannot be listened on" in done.stderr


def test_tokens_and_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIGHTLINE_SERVE_TOKEN", "a-token-of-the-environment\n")
    assert token_of("") == "a-token-of-the-environment"
    (tmp_path / "token").write_bytes(b"\xef\xbb\xbfa-token-out-of-a-file\r\n")
    assert token_of(str(tmp_path / "token")) == "a-token-out-of-a-file"
    (tmp_path / "token").write_text("short")
    with pytest.raises(UserError, match="no word of 16"):
        token_of(str(tmp_path / "token"))
    assert hosts_of(ListenOptions(host="0.0.0.0"), "x") is None
    assert hosts_of(ListenOptions(host="0.0.0.0", names=("search.example",)), "x") == (
        *("search.example", "0.0.0.0", "127.0.0.1", "localhost", "::1"),
    )
    assert "127.0.0.1" in (hosts_of(ListenOptions(), "") or ())


def test_the_token_is_in_no_output(command: list[str]) -> None:
    environment = {**os.environ, "SIGHTLINE_SERVE_TOKEN": "canary-canary-canary"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        answers = []
        with httpx.Client(base_url=url, timeout=30) as client:
            for _ in range(100):
                try:
                    right = {"authorization": "Bearer canary-canary-canary"}
                    answers = [client.get(path, headers=right) for path in ("/snapshot", "/metrics", "/", "/x")]
                    answers.append(client.get("/snapshot"))
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)
        assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 401]
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert "canary" not in out + errors + "".join(answer.text + str(answer.headers) for answer in answers)
