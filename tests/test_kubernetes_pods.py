"""The pods that infra/kubernetes brings about: rights, resources, probes, and what runs before Ray does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobs import cli
from tests.test_infra import INFRA
from tests.test_kubernetes import RUNS, SCHEDULES, Manifest, groups, job_spec, of_kind, pods

JOBS = [*RUNS, *SCHEDULES]
GIB = 1 << 30
UNITS = {"Gi": GIB, "Mi": GIB >> 10, "m": 0.001}


def quantity(text: str) -> float:
    """A Kubernetes quantity as a number."""
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    return float(text.removesuffix(unit)) * UNITS.get(unit, 1)


@pytest.mark.parametrize("overlay", [*JOBS, "base"])
def test_pods_are_restricted(overlay: str) -> None:
    level = of_kind("base", "Namespace")[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert level == "restricted"
    for name, pod in pods(overlay):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] == 1000, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        # What reads the role's token runs as this group.
        assert context["fsGroup"] == 1000, name
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name


@pytest.mark.parametrize("overlay", [*JOBS, "base"])
def test_only_the_head_may_talk_to_kubernetes(overlay: str) -> None:
    for name, pod in pods(overlay):
        assert (pod.get("automountServiceAccountToken") is False) == (name != "head"), name


@pytest.mark.parametrize("overlay", [*JOBS, "base"])
def test_every_container_says_what_it_needs(overlay: str) -> None:
    for name, pod in pods(overlay):
        for container in pod["containers"]:
            resources = container["resources"]
            for kind in ("cpu", "memory"):
                asked, most = quantity(resources["requests"][kind]), quantity(resources["limits"][kind])
                assert 0 < asked <= most, name
            if name in ("cpu", "gpu", "head", "sightline-serve"):
                # Beyond its request a pod's memory is the node's to take back; staged files count, too.
                assert (
                    container.get("name") != "ray-worker" or resources["requests"]["cpu"] == resources["limits"]["cpu"]
                )
                assert "ephemeral-storage" in resources.get("limits", {}) or "name" not in container, name


@pytest.mark.parametrize(("overlay", "cores"), [("run-cpu", 16), ("run-gpu", 8)])
def test_a_worker_fits_the_node_that_it_is_made_for(overlay: str, cores: int) -> None:
    _, worker = groups(job_spec(overlay))
    limits = worker["template"]["spec"]["containers"][0]["resources"]["limits"]
    # Of a node's cores and 32 GiB, Kubernetes and its agents keep some for themselves.
    assert quantity(limits["cpu"]) <= cores - 1
    assert quantity(limits["memory"]) <= 28 * GIB


@pytest.mark.parametrize("overlay", JOBS)
def test_ray_s_probes_need_nothing_that_the_image_lacks(overlay: str) -> None:
    for group in groups(job_spec(overlay)):
        container = group["template"]["spec"]["containers"][0]
        for probe in ("livenessProbe", "readinessProbe"):
            # KubeRay below 1.6 sets commands with wget where there is none; Ray >= 2.53 answers here, token or not.
            assert container[probe]["httpGet"] == {"path": "/api/healthz", "port": 52365}
            assert "exec" not in container[probe]


@pytest.mark.parametrize("overlay", ["run-gpu", "schedule-gpu"])
def test_gpu_workers_ask_for_a_gpu_and_bear_its_nodes(overlay: str) -> None:
    head, worker = groups(job_spec(overlay))
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert worker["minReplicas"] == 0 < worker["maxReplicas"]
    assert "replicas" not in worker
    pod = worker["template"]["spec"]
    resources = pod["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "1"
    borne = {toleration["key"] for toleration in pod["tolerations"]}
    assert {"nvidia.com/gpu", "cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} <= borne
    assert "tolerations" not in head["template"]["spec"], "the driver is not for spot nodes"
    assert pod["containers"][0]["image"].endswith(":gpu")
    words = job_spec(overlay)["entrypoint"]
    assert f" --workers {worker['maxReplicas']} --gpus-per-worker {resources['limits']['nvidia.com/gpu']} " in words
    assert " --gpus-per-worker 0 " in job_spec(overlay.replace("gpu", "cpu"))["entrypoint"]
    assert head["template"]["spec"]["containers"][0]["image"].endswith(":cpu")


def started(container: Manifest, folder: Path, fails: str) -> list[str]:
    """What runs in a Ray container, by the line that KubeRay makes of its arguments; the program `fails` fails."""
    for name in ("python", "ray"):
        program = folder / name
        program.write_text(f'#!/bin/bash\necho "{name} $*" >> "{folder}/ran"\n[[ "{name} $*" != *"{fails}"* ]]\n')
        program.chmod(0o755)
    line = f"{' '.join(container['args'])} && ulimit -n 65536; ray start --address=head:6379"
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    subprocess.run(["/bin/bash", "-c", line], env=environment, capture_output=True, check=False)
    return (folder / "ran").read_text().splitlines()


@pytest.mark.parametrize("fails", ["nothing", "pipeline.run.guard", "check_node.py"])
def test_ray_does_not_start_where_a_check_fails(tmp_path: Path, fails: str) -> None:
    for group in groups(job_spec("run-gpu")):
        folder = tmp_path / group.get("groupName", "head")
        folder.mkdir()
        ran = started(group["template"]["spec"]["containers"][0], folder, fails)
        assert ran[0] == "python -m pipeline.run.guard"
        stopped = any(fails in line for line in ran)
        assert ran[-1].startswith("ray start") is not stopped
    assert "python /opt/sightline/infra/check_node.py gpu" in (tmp_path / "gpu" / "ran").read_text() or fails.endswith(
        "guard"
    )


def test_what_the_pods_run_is_in_the_image() -> None:
    dockerfile = (INFRA / "Dockerfile").read_text()
    assert "WORKDIR /opt/sightline" in dockerfile
    assert "COPY infra/check_node.py ./infra/check_node.py" in dockerfile
    sent = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
    for copied in ("pyproject.toml", "constraints.txt", "pipeline", "jobs", "infra/check_node.py"):
        assert f"!{copied}" in sent


def accepted(arguments: list[str]) -> bool:
    """Whether the command line knows these options; --help ends it before anything is done."""
    return cli.run([*arguments, "--help"]) == 0


def test_the_commands_are_of_this_release() -> None:
    for overlay in RUNS:
        program, *arguments = str(job_spec(overlay)["entrypoint"]).split()
        assert program == "sightline"
        assert accepted(arguments)
    assert not accepted([*arguments, "--no-such-option"])
    assert accepted(serve()["args"])


def serve() -> Any:
    return of_kind("base", "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]


def test_the_service_is_watched_over_and_writes_nowhere_but_in_tmp() -> None:
    container = serve()
    port = container["ports"][0]["name"]
    for probe, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        assert container[probe]["httpGet"] == {"path": path, "port": port}
    start = container["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 600, "a large index takes minutes to open"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert mounted == {variables["HOME"], variables["TMPDIR"]} == {"/tmp"}
    assert "--token-file" not in container["args"]
    assert "SIGHTLINE_SERVE_TOKEN" in variables
    assert variables["OMP_NUM_THREADS"] == container["resources"]["limits"]["cpu"]


def test_the_service_is_reached_by_its_ingress() -> None:
    service, ingress = of_kind("base", "Service")[0], of_kind("base", "Ingress")[0]
    deployment, budget = of_kind("base", "Deployment")[0], of_kind("base", "PodDisruptionBudget")[0]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for selector in (service["spec"]["selector"], budget["spec"]["selector"]["matchLabels"]):
        assert selector.items() <= labels.items()
    backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend["name"] == service["metadata"]["name"]
    assert backend["port"]["name"] == service["spec"]["ports"][0]["name"]
    assert (
        service["spec"]["ports"][0]["targetPort"]
        == deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0]["name"]
    )
    assert ingress["spec"]["tls"][0]["hosts"] == [ingress["spec"]["rules"][0]["host"]]
    assert budget["spec"]["minAvailable"] < deployment["spec"]["replicas"]


def test_prometheus_finds_every_port_and_has_the_token() -> None:
    ray, service = of_kind("monitoring", "PodMonitor")[0], of_kind("monitoring", "ServiceMonitor")[0]
    head, worker = groups(job_spec("run-gpu"))
    ports = {port["name"] for port in head["template"]["spec"]["containers"][0]["ports"]}
    assert {endpoint["port"] for endpoint in ray["spec"]["podMetricsEndpoints"]} <= ports
    assert {"metrics"} == {port["name"] for port in worker["template"]["spec"]["containers"][0]["ports"]}
    endpoint = service["spec"]["endpoints"][0]
    secret = next(v for v in serve()["env"] if v["name"] == "SIGHTLINE_SERVE_TOKEN")["valueFrom"]["secretKeyRef"]
    assert endpoint["authorization"]["credentials"] == secret
    assert endpoint["port"] == of_kind("base", "Service")[0]["spec"]["ports"][0]["name"]
