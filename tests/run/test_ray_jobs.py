"""Submission to a real Ray head on this machine, with token authentication, as users do it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.submit import references, submission_id
from tests.builders import images, write_files

REPOSITORY = Path(__file__).parents[2]
QUICK = ["--backbone", "squeezenet1_1", "--weights", "random:0", "--resize", "longest:64", "--indexes", "flat"]


@dataclass(frozen=True)
class Head:
    address: str
    environment: dict[str, str]

    def cli(self, *arguments: str, **more: str) -> tuple[int, dict[str, Any], str]:
        """Run the command line; return exit code, JSON and what was said."""
        done = subprocess.run(
            [sys.executable, "-m", "jobs.cli", *arguments],
            cwd=REPOSITORY,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        return done.returncode, json.loads(lines[-1]) if lines else {}, done.stderr

    def submit(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        return self.cli("submit", "--json", "--address", self.address, *arguments)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head with its job server on 127.0.0.1 and a token of its own."""
    folder = Path("/tmp") / f"ray-{secrets.token_hex(3)}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {**os.environ, **token, "PATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    port = 8265
    ports = [f"--port={6379}", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1"]
    command = ["ray", "start", "--head", "--block", *ports, "--num-cpus=2", f"--temp-dir={folder}"]
    log = tmp_path_factory.mktemp("ray") / "head.log"
    with log.open("wb") as out:
        started = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert started.poll() is None, log.read_text()
            time.sleep(0.2)
        yield Head(address=f"http://127.0.0.1:{port}", environment=environment)
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        started.wait(timeout=60)


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_a_submitted_run_publishes_and_its_exit_code_comes_back(head: Head, tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(6)), tmp_path / "root"
    command = ["index", str(source), str(root), "--runner", "ray", "--address", "auto", *QUICK]
    code, told, said = head.submit("--wait", "--", *command)
    assert (code, told["status"], told["exit"]) == (0, "SUCCEEDED", 0), said
    assert "published snapshot 1: 6 images" in said
    code, status, _ = head.cli("status", str(root), "--json")
    assert (code, status["images"]) == (0, 6)
    code, asked, _ = head.submit("--status", told["job"])
    assert (code, asked["status"]) == (0, "SUCCEEDED")
    code, logs, _ = head.submit("--logs", told["job"])
    assert "published snapshot 1" in logs["logs"]
    code, told, said = head.submit("--wait", "--", "index", str(tmp_path / "nothing"), str(tmp_path / "other"))
    assert (code, told["status"], told["exit"]) == (2, "FAILED", 2)
    assert "does not exist" in said
    # Without the token nothing is answered, and the line says what to do.
    code, told, said = head.cli("submit", "--json", "--address", head.address, "--", *command, RAY_AUTH_TOKEN="wrong")
    assert (code, said.count("\n")) == (2, 1)
    assert "token" in told["error"]


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_the_same_command_is_one_job_and_a_stopped_one_goes_on_with_the_next(head: Head, tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(600)), tmp_path / "root"
    slow = ["--resize", "none", "--files-per-shard", "10", "--indexes", "flat"]
    command = ["index", str(source), str(root), "--backbone", "vgg16", "--weights", "random:0", *slow]
    first = head.submit("--", *command)[1]
    again = head.submit("--", *command)[1]
    assert first["job"] == again["job"] == submission_id(command), "the job that runs is followed"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(root.glob("descriptors/*/*.json")):
        time.sleep(0.1)
    code, stopped, _ = head.submit("--stop", first["job"])
    assert (code, stopped["status"]) == (0, "STOPPED")
    done = len(list(root.glob("descriptors/*/*.json")))
    assert 0 < done < 60
    assert not (root / "snapshots").exists(), "nothing half-done is published"
    second = head.submit("--", *command)[1]
    assert second["job"] == f"{first['job']}-2", "after its end it is the next attempt"
    head.submit("--stop", second["job"])


def test_an_unreachable_head_and_a_wrong_command_are_one_line() -> None:
    head = Head(address="http://127.0.0.1:9", environment=dict(os.environ))
    code, told, said = head.submit("--", "index", "a", "b")
    assert (code, said.count("\n")) == (2, 1)
    assert "cannot be reached" in told["error"]
    assert head.submit("--", "frobnicate")[0] == 2
    assert head.submit("--", "index", "s3://key:canary@bucket/x", "r")[0] == 2


def test_i14_only_names_of_credentials_go_with_a_job() -> None:
    here = {"AWS_PROFILE": "p", "AWS_SECRET_ACCESS_KEY": "canary", "AWS_ACCESS_KEY_ID": "k", "AWS_SESSION_TOKEN": "t"}
    assert references({**here, "AWS_ENDPOINT_URL": "http://s3:9000"}) == {
        "AWS_PROFILE": "p",
        "AWS_ENDPOINT_URL": "http://s3:9000",
    }
