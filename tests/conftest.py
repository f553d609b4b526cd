"""Fixtures that many tests share: where the real data is, a real S3 server, a bucket of one's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

CEPH = Path(__file__).parents[1] / "infra" / "ceph-s3.sh"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real photographs, weights and ground truth; tests that need it skip without it."""
    folder = os.environ.get("SIGHTLINE_REAL_DATA", "")
    if not folder:
        pytest.skip("SIGHTLINE_REAL_DATA is not set")
    path = Path(folder).resolve()
    assert path.is_dir(), f"SIGHTLINE_REAL_DATA names {path}, which is no folder"
    return path


@pytest.fixture(scope="session")
def golden_data(real_data: Path) -> Path:
    """Folder of values computed with the reference implementations."""
    return real_data.parent / "golden"


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Endpoint of a Ceph S3 gateway on this machine; SIGHTLINE_TEST_S3 names one that runs already."""
    running = os.environ.get("SIGHTLINE_TEST_S3", "")
    if running:
        yield running
        return
    folder = tmp_path_factory.mktemp("ceph")
    try:
        up = subprocess.run([CEPH, "up", folder, str(_free_ports())], check=False, capture_output=True, timeout=180)
        assert up.returncode == 0, f"no S3 server, {up.stderr.decode()}"
        yield up.stdout.decode().strip()
    finally:
        subprocess.run([CEPH, "down", folder], check=True, timeout=60)


def _free_ports() -> int:
    """Return a port that is free together with the next one."""
    for port in range(17600, 18600, 2):
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise AssertionError("no two free ports")


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the AWS variables for the test server."""
    values = {"AWS_ACCESS_KEY_ID": "testkey", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(ceph: str, s3_credentials: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Location of an empty bucket; the endpoint is in the environment, as users have it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", ceph)
    # s3fs keeps clients, and with them the credentials that it found when it made them.
    fsspec.filesystem("s3", skip_instance_cache=True).clear_instance_cache()
    name = f"b{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3", endpoint_url=ceph, skip_instance_cache=True).mkdir(name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A running Chromium, driven by Playwright; tests that need it skip without either."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
