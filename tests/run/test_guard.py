"""No node is started, and no cluster used, that strangers could run code on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.run import guard

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x"}


@pytest.mark.parametrize(
    ("host", "who"),
    [
        ("127.0.0.1", "here"),
        ("localhost", "here"),
        ("::1", "here"),
        ("10.1.2.3", "private"),
        ("fd00::1", "private"),
        ("0.0.0.0", "public"),
        ("::", "public"),
        ("8.8.8.8", "public"),
        ("head.example", "public"),
    ],
)
def test_who_can_reach_an_address(host: str, who: str) -> None:
    assert guard.reach(host) == who


def test_a_node_without_a_token_or_with_a_public_dashboard_is_not_started(tmp_path: Path) -> None:
    guard.check_start("127.0.0.1", TOKEN)
    guard.check_start("10.0.0.5", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": __file__})
    missing = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}
    for environment in ({}, {"RAY_AUTH_TOKEN": "x"}, missing):
        with pytest.raises(UserError, match="no token protects this node"):
            guard.check_start("127.0.0.1", environment)
    for host in ("0.0.0.0", "8.8.8.8"):
        with pytest.raises(UserError, match="the dashboard would be public"):
            guard.check_start(host, TOKEN)


def test_a_public_cluster_without_a_token_is_refused_and_a_private_one_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard.check_cluster("127.0.0.1:8265", {})
    guard.check_cluster("8.8.8.8:8265", TOKEN)
    assert not caplog.records
    guard.check_cluster("10.0.0.5:8265", {})
    assert "wants no token" in caplog.text
    with pytest.raises(UserError, match="is public and wants no token"):
        guard.check_cluster("8.8.8.8:8265", {})


def test_the_command_before_ray_start_ends_with_one_line() -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "-m", "pipeline.run.guard", "127.0.0.1"]
    done = subprocess.run(command, env={**plain, "HOME": "/nonexistent"}, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.startswith("error: ray start: is refused")
    assert subprocess.run(command, env={**plain, **TOKEN}, check=False).returncode == 0
