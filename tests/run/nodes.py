"""A Ray cluster of processes on this machine, with a token; nodes may live in network namespaces of their own.

A namespace hangs on a bridge by one cable, which `cut` pulls: what runs behind it goes on, and reaches nobody.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).parents[2]
BRIDGE = "10.97.53"
"""Three bytes of a network that exists on this machine only, while a cluster with namespaces does."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def namespaces_are_allowed() -> bool:
    """Whether this process may make network namespaces: as root, in most containers."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    name = f"sl{secrets.token_hex(2)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        ip("netns", "del", name)
    return made


@dataclass
class Node:
    process: subprocess.Popen[bytes]
    cable: str = ""

    def workers(self) -> list[psutil.Process]:
        """The processes that carry tasks."""
        found = psutil.process_iter(["cmdline"])
        family = {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}
        named = [child for child in found if child.pid in family and child.info["cmdline"]]
        return [child for child in named if "ray::_Worker" in " ".join(child.info["cmdline"])]

    def raylet(self) -> psutil.Process:
        found = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in found if child.name() == "raylet")

    def cut(self) -> None:
        """Pull the cable."""
        ip("link", "set", self.cable, "down")

    def mend(self) -> None:
        ip("link", "set", self.cable, "up")


@dataclass
class Nodes:
    """environment: further variables of every process. apart: whether nodes live in namespaces."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    apart: bool = False

    def __post_init__(self) -> None:
        self.tag = secrets.token_hex(2)
        self.nodes: list[Node] = []
        self._made: list[tuple[str, ...]] = []
        self._temporary = Path("/tmp") / f"sl-{self.tag}"
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {**os.environ, **token, "PATH": path, **self.environment}
        self.port, self._ip = free_port(), ""
        if self.apart:
            self._ip, bridge = f"{BRIDGE}.1", f"slb{self.tag}"
            ip("link", "add", bridge, "type", "bridge")
            self._made.append(("link", "del", bridge))
            ip("addr", "add", f"{self._ip}/24", "dev", bridge)
            ip("link", "set", bridge, "up")

    def head(
        self, cpus: int = 1, gpus: int = 0, *, dashboard: bool = False, types: dict[str, Any] | None = None
    ) -> Node:
        """Start the head, which stays in this namespace; with a dashboard jobs can be submitted to `jobs`.

        types: of nodes that Ray's autoscaler starts on this machine when they are asked for.
        """
        there = [f"--node-ip-address={self._ip}"] if self._ip else []
        if types is not None:
            config = self.folder / "autoscaling.json"
            config.write_text(json.dumps(autoscaling(types, cpus, f"127.0.0.1:{self.port}")))
            there = ["--node-ip-address=127.0.0.1", f"--autoscaling-config={config}"]
            self.environment |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        port = free_port()
        shown = ["--dashboard-host=127.0.0.1", f"--dashboard-port={port}"] if dashboard else []
        shown = shown or ["--include-dashboard=false"]
        node = self._start(["--head", f"--port={self.port}", *shown, *there], cpus, gpus, [])
        self.jobs = f"http://127.0.0.1:{port}"
        self.address = f"{self._ip or self._own_address()}:{self.port}"
        return node

    def add(self, cpus: int = 1, gpus: int = 0, *, apart: bool | None = None) -> Node:
        """Start one more node, in a namespace if the cluster has them."""
        options, before, cable = [f"--address={self.address}"], [], ""
        if self.apart if apart is None else apart:
            number = len(self.nodes) + 1
            space, cable, inside = f"sl{self.tag}{number}", f"slo{self.tag}{number}", f"sli{self.tag}{number}"
            address = f"{BRIDGE}.{number}"
            ip("netns", "add", space)
            self._made.append(("netns", "del", space))
            ip("link", "add", cable, "type", "veth", "peer", "name", inside)
            ip("link", "set", cable, "master", f"slb{self.tag}", "up")
            ip("link", "set", inside, "netns", space)
            ip("-n", space, "addr", "add", f"{address}/24", "dev", inside)
            ip("-n", space, "link", "set", inside, "up")
            ip("-n", space, "link", "set", "lo", "up")
            options.append(f"--node-ip-address={address}")
            before = ["ip", "netns", "exec", space]
        elif self._ip:
            options.append(f"--node-ip-address={self._ip}")
        node = self._start(options, cpus, gpus, before)
        node.cable = cable
        return node

    def start_index(self, *arguments: str) -> subprocess.Popen[str]:
        """Start an indexing run as a user would, on this cluster."""
        command = [sys.executable, "-m", "jobs.cli", "index", *arguments, "--json", "--runner", "ray"]
        return subprocess.Popen(
            [*command, "--address", self.address],
            cwd=REPOSITORY,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def index(self, *arguments: str) -> tuple[dict[str, Any], str]:
        """Run to the end; return the report and what was said."""
        return ended(self.start_index(*arguments))

    def close(self) -> None:
        """Stop what was started, by id, and take the network away."""
        for node in reversed(self.nodes):
            family = [node.process.pid]
            if node.process.poll() is None:
                family += [child.pid for child in psutil.Process(node.process.pid).children(recursive=True)]
            for pid in family:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            node.process.wait(timeout=30)
        for arguments in reversed(self._made):
            ip(*arguments)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _start(self, options: list[str], cpus: int, gpus: int, before: list[str]) -> Node:
        number = len(self.nodes)
        log = self.folder / f"node{number}.log"
        sizes = [f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--temp-dir={self._temporary / str(number)}"]
        command = [
            *before,
            "ray",
            "start",
            "--block",
            "--log-color=false",
            *options,
            *sizes,
            "--object-store-memory=100000000",
        ]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, env=self.environment, stdout=out, stderr=out, start_new_session=True, cwd=REPOSITORY
            )
        node = Node(process)
        self.nodes.append(node)
        deadline = time.monotonic() + 60
        while "started." not in log.read_text(errors="replace"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return node

    def _own_address(self) -> str:
        text = (self.folder / "node0.log").read_text()
        return next(line.rsplit(maxsplit=1)[1] for line in text.splitlines() if "Local node IP" in line)


def autoscaling(types: dict[str, Any], cpus: int, address: str) -> dict[str, Any]:
    """The configuration of an autoscaler whose nodes are processes of this machine."""
    head = {"resources": {"CPU": cpus}, "node_config": {}, "max_workers": 0}
    lists = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")
    commands = ("", "head_", "worker_")
    return {
        "cluster_name": "fake",
        "max_workers": 10,
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": 10,
        "provider": {
            "type": "fake_multinode",
            "launch_multiple": True,
            "gcs_address": address,
            "head_node_id": "f" * 51 + "00000",
        },
        "available_node_types": {"head": head, **types},
        "head_node_type": "head",
        **{name: {} for name in ("file_mounts", "auth", "docker")},
        **{name: [] for name in lists},
        **{f"{place}setup_commands": [] for place in commands},
        **{f"{place}start_ray_commands": [] for place in commands if place},
        "file_mounts_sync_continuously": False,
    }


def ended(process: subprocess.Popen[str], timeout: float = 240) -> tuple[dict[str, Any], str]:
    """Wait for a run that was started; return its report and what it said."""
    out, said = process.communicate(timeout=timeout)
    assert process.returncode == 0, said
    return json.loads(out), said
