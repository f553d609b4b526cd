"""Clients that mean harm, or know no better: only 4xx with a reason, memory flat, and others are served meanwhile."""

from __future__ import annotations

import gc
import io
import os
import random
import socket
import string
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import httpx
import psutil
import pytest
from PIL import Image

from tests.builders import QUICK, encoded, images, jpeg, run, tar_bytes, write_files
from tests.serve.served import CALM, Served, served, small_root

NAUGHTY = (
    *("../x.jpg", "a/../../b.jpg", "/etc/passwd.jpg", "C:\\x.jpg", "a\\b.jpg", "%2e%2e%2fx.jpg", "%00.jpg", "-rf.jpg"),
    *(".hidden.jpg", "con.jpg", "a b.jpg", " lead.jpg", "trail .jpg", "new\nline.jpg", "tab\t.jpg", "bell\x07.jpg"),
    *("<img src=x onerror=alert(1)>.jpg", "<svg onload=alert(1)>.jpg", "'; drop table x; --.jpg", '"quoted".jpg'),
    *(
        "=cmd|' /C calc'!A0.jpg",
        "é.jpg",
        "e\u0301.jpg",
        "ß.jpg",
        "İ.jpg",
        "日本.jpg",
        "😀.jpg",
        "\u202eabc.jpg",
        "\u200b.jpg",
    ),
    *(
        "?k=1.jpg",
        "#x.jpg",
        "a?b=c&d#e.jpg",
        "a//b.jpg",
        "./x.jpg",
        "a/./b.jpg",
        "%.jpg",
        "%zz.jpg",
        "+.jpg",
        "{key}.jpg",
    ),
    *("n" * 250 + ".jpg", "d/" * 60 + "deep.jpg", "..jpg", "....jpg", "~root.jpg", "$HOME.jpg", "`id`.jpg", "NUL.jpg"),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = small_root(tmp_path_factory.mktemp("hostile"))
    limits = replace(CALM, pixels=2_000_000, header_seconds=0.5, body_seconds=1.5, connections=100)
    with served(root, limits=limits) as site:
        yield site


def resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def fair(response: httpx.Response) -> None:
    """Answered, or refused with a reason."""
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.json()["error"]


def exchange(port: int, data: bytes, seconds: float = 5) -> bytes:
    """Send bytes as they are, and return what comes back until the service hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as raw:
        raw.sendall(data)
        out = b""
        try:
            while part := raw.recv(65536):
                out += part
        except (TimeoutError, ConnectionResetError):
            pass
        return out


def test_naughty_names_lead_to_their_images_and_nowhere_else(tmp_path: Path) -> None:
    names = list(dict.fromkeys(NAUGHTY))
    files = {name: jpeg(number) for number, name in enumerate(names)}
    # By rules 1 the names of members are keys as they are; by rules 2 "a//b.jpg" and "a/./b.jpg" are "a/b.jpg".
    (tmp_path / "old.toml").write_text('[source]\nkind = "tar"\nrules = 1\n')
    recipe = replace(QUICK, recipe=str(tmp_path / "old.toml"))
    run(write_files(tmp_path / "src", {"a.tar": tar_bytes(files)}), tmp_path / "root", recipe=recipe)
    with served(tmp_path / "root") as site:
        for number, name in enumerate(names):
            path = quote(f"a.tar/{name}", safe="")
            found = site.client.get(f"/similar/{path}?k=200")
            assert found.status_code == 200, (name, found.text)
            assert found.json()["query"]["key"] == f"a.tar/{name}"
            assert f"a.tar/{name}" not in {hit["key"] for hit in found.json()["hits"]}
            shown = site.client.get(f"/images/{path}")
            with Image.open(io.BytesIO(shown.content)) as opened, Image.open(io.BytesIO(jpeg(number))) as original:
                assert (shown.status_code, opened.size) == (200, original.size)


def test_ten_thousand_made_up_names_are_only_not_found(site: Served) -> None:
    generator = random.Random(7)
    pool = string.printable + "/\\%.?#" * 20 + "éß日😀\u202e\x00\x7f" * 3

    def ask(client: httpx.Client) -> None:
        name = "".join(generator.choices(pool, k=generator.choice((1, 3, 8, 30, 300))))
        text = generator.choice((lambda x: quote(x, safe=""), lambda x: quote(x, safe="/%"), quote))(name)
        response = client.get(generator.choice(("/images/", "/similar/")) + text)
        if response.request.url.path.startswith(("/images/", "/similar/")):
            # Clients take out what climbs before they send it: then it is another path.
            assert response.status_code in (404, 422), (name, response.status_code, response.text)
        fair(response)

    with httpx.Client(base_url=site.url, timeout=30) as client:
        for _ in range(500):
            ask(client)
        before = resident()
        for _ in range(9500 if os.environ.get("SIGHTLINE_THOROUGH") else 1500):
            ask(client)
    assert resident() - before < 40 << 20


def test_paths_and_requests_that_no_browser_sends(site: Served) -> None:
    targets = [
        b"/images/../../../etc/passwd", b"/images/..%2f..%2fetc%2fpasswd", b"/images//etc/passwd", b"//etc/passwd",
        b"/images/%ff%fe", b"/images/\xff\xfe", b"/similar/%", b"/similar/%0d%0aX-A:%20b", b"http://elsewhere/snapshot",
        b"*", b"/images/" + b"a" * 5000, b"/images/" + b"a" * 200_000, b"/" + b"%2e%2e/" * 50, b"/icon.svg/../page.py",
        b"/static/index.html", b"/page.css%00.js", b"/metrics/..;/snapshot", b"/similar/x?k=" + b"9" * 5000,
    ]  # fmt: skip
    for target in targets:
        out = exchange(site.port, b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        status = int(out.split(b" ")[1]) if out else 0
        assert status in (0, *range(400, 500)), (target[:80], out[:200])
        assert b"root:" not in out
    post = b"POST /search HTTP/1.1\r\nHost: localhost\r\n"
    for raw in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        post + b"Content-Length: -5\r\n\r\n",
        post + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100_000,
    ):
        out = exchange(site.port, raw)
        assert not out or out.split(b" ")[1].startswith(b"4"), out[:200]
    assert site.client.get("/snapshot").status_code == 200


def bombs() -> dict[str, bytes]:
    def png(width: int, height: int, mode: str = "1") -> bytes:
        return encoded(Image.new(mode, (width, height)), "PNG")

    frames = [Image.new("P", (1000, 1000), colour) for colour in range(60)]
    gif = io.BytesIO()
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    return {
        "png 9000": png(9000, 9000),
        "png 20000": png(20_000, 20_000),
        "long": png(65_000, 30),
        "tall": png(1, 60_000),
        "gif": gif.getvalue(),
        "tiff": encoded(Image.new("1", (12_000, 12_000)), "TIFF", compression="group4"),
        "webp": encoded(Image.new("RGB", (8000, 8000)), "WEBP"),
        "jpeg": encoded(Image.new("L", (12_000, 12_000)), "JPEG"),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
        "html": b"<html><script>alert(1)</script></html>",
        "text": b"P6 100000 100000 255\n",
    }


def test_bombs_cost_nothing(site: Served) -> None:
    made = bombs()
    for data in made.values():
        fair(site.image(data))
    before = resident()
    with ThreadPoolExecutor(8) as pool, httpx.Client(base_url=site.url, timeout=60) as client:
        answers = pool.map(lambda data: client.post("/search", files={"image": data}), [*made.values()] * 10)
        for response in answers:
            fair(response)
    assert resident() - before < 120 << 20
    assert site.image(jpeg(1)).status_code == 200


def test_broken_and_odd_files_are_answered_or_refused(site: Served, real_data: Path) -> None:
    folder = real_data.parent / "bad-images"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) > 100
    refused = 0
    with httpx.Client(base_url=site.url, timeout=60) as client:
        # Their kinds lie side by side: every sixth is of every kind.
        for number, path in enumerate(files if os.environ.get("SIGHTLINE_THOROUGH") else files[::6]):
            if number == 100:
                before = resident()
            response = client.post("/search", files={"image": (path.name, path.read_bytes())}, data={"k": 1})
            fair(response)
            refused += response.status_code != 200
    assert refused > 0
    assert resident() - before < 150 << 20


def test_slow_clients_hold_nothing_up(site: Served) -> None:
    slow = [socket.create_connection(("127.0.0.1", site.port), timeout=10) for _ in range(60)]
    try:
        for number, raw in enumerate(slow):
            raw.sendall(b"GET /snapshot HTTP/1.1\r\n" if number % 2 else b"")
        assert site.client.get("/snapshot").status_code == 200
        deadline = time.monotonic() + 6
        # Each goes on sending a header now and then, and is hung up on all the same.
        closed = 0
        for raw in slow:
            raw.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                raw.sendall(b"X: y\r\n")
                closed += not raw.recv(1)
            except (ConnectionResetError, BrokenPipeError):
                closed += 1
        assert closed == len(slow)
    finally:
        for raw in slow:
            raw.close()


def test_a_body_that_drips_is_refused(site: Served) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as raw:
        raw.sendall(
            b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.2):
                try:
                    raw.sendall(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        out = b""
        while part := raw.recv(65536):
            out += part
        stop.set()
        thread.join()
    assert out.startswith(b"HTTP/1.1 408")
    assert b"did not arrive within 1.5 seconds" in out


def test_more_connections_than_there_may_be_are_sent_away(site: Served) -> None:
    held = [socket.create_connection(("127.0.0.1", site.port), timeout=10) for _ in range(150)]
    try:
        with httpx.Client(base_url=site.url) as client:
            assert client.get("/snapshot").status_code == 503
    finally:
        for raw in held:
            raw.close()
    deadline = time.monotonic() + 10
    with httpx.Client(base_url=site.url) as client:
        while client.get("/snapshot").status_code != 200:
            assert time.monotonic() < deadline


def test_the_interface_is_as_it_describes_itself(site: Served, tmp_path: Path) -> None:
    """schemathesis: generated requests for every operation, good and bad; answers of the described kinds only.

    What is left out is the check that whatever fits the schema is accepted: no schema tells an image from noise.
    """
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "st", "run", f"{site.url}/openapi.json", "-n", "25", "--seed", "1"),
            *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
            *("--suppress-health-check", "all", "--max-failures", "5"),
        ],
        check=False,
        capture_output=True,
        timeout=200,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout.decode()[-3000:]


def test_images_of_the_service_are_those_of_the_collection(site: Served) -> None:
    assert site.image(images(24)["0011.jpg"]).json()["hits"][0]["key"] == "0011.jpg"
