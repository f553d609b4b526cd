"""The manifests of infra/kubernetes as they are rendered, held against what KubeRay 1.7, Ray and Kubernetes document.

No cluster is started: what KubeRay makes of a RayJob is written down here as far as these tests need it.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay import autoscaling_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from tests.test_infra import INFRA, strict

KUBERNETES = INFRA / "kubernetes"
OVERLAYS = ("base", "monitoring", "run-cpu", "run-gpu", "schedule-cpu", "schedule-gpu")
RUNS = ("run-cpu", "run-gpu")
SCHEDULES = ("schedule-cpu", "schedule-gpu")
SECRET_KEY = "auth_token"
"""The key under which KubeRay looks for the token."""
DAY = 86_400
Manifest = dict[str, Any]


@functools.cache
def rendered(overlay: str) -> list[Manifest]:
    """An overlay's objects, as `kubectl apply -k` would send them."""
    program = shutil.which("kubectl") or shutil.which("kustomize")
    if program is None:
        pytest.skip("neither kubectl nor kustomize is there to render manifests")
    verb = "kustomize" if Path(program).name == "kubectl" else "build"
    command = [program, verb, str(KUBERNETES / "overlays" / overlay)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def of_kind(overlay: str, kind: str) -> list[Manifest]:
    return [manifest for manifest in rendered(overlay) if manifest["kind"] == kind]


def job_spec(overlay: str) -> Manifest:
    """The spec of the run that an overlay starts, now or by the clock."""
    runs: list[Manifest] = [job["spec"] for job in of_kind(overlay, "RayJob")]
    runs += [job["spec"]["jobTemplate"] for job in of_kind(overlay, "RayCronJob")]
    assert len(runs) == 1
    return runs[0]


def groups(spec: Manifest) -> list[Manifest]:
    cluster = spec["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def pods(overlay: str) -> Iterator[tuple[str, Manifest]]:
    """Every pod that an overlay brings about, by name; the autoscaler is a container that KubeRay adds to the head."""
    for deployment in of_kind(overlay, "Deployment"):
        yield deployment["metadata"]["name"], deployment["spec"]["template"]["spec"]
    if overlay not in (*RUNS, *SCHEDULES):
        return
    spec = job_spec(overlay)
    yield "submitter", spec["submitterPodTemplate"]["spec"]
    for group in groups(spec):
        pod = group["template"]["spec"]
        if "groupName" not in group:
            pod = {**pod, "containers": [*pod["containers"], spec["rayClusterSpec"]["autoscalerOptions"]]}
        yield group.get("groupName", "head"), pod


def checker(real_data: Path) -> jsonschema.Draft7Validator:
    """What says whether a RayJob is of KubeRay's schema."""
    text = (real_data.parent / "schemas" / "ray.io_rayjobs.yaml").read_text()
    # Pure Python takes half a minute over it.
    crd = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    known = next(v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"] if v["name"] == "v1")
    return jsonschema.Draft7Validator(strict(known))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_has_nothing_left_to_fill_in(overlay: str) -> None:
    text = json.dumps(rendered(overlay))
    assert not re.search(r"\b(SOURCE|ROOT|OPTIONS|HOST|SCHEDULE|INDEX-ROLE|SERVE-ROLE)\b", text)
    assert not re.search(r'"sightline-(cpu|gpu)"', text), "an image without a registry"
    for manifest in rendered(overlay):
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "sightline"


def test_runs_are_of_kuberay_s_schema(real_data: Path) -> None:
    known = checker(real_data)
    for overlay in RUNS:
        known.validate(of_kind(overlay, "RayJob")[0])
    for overlay in SCHEDULES:
        assert of_kind(overlay, "RayJob") == []
        known.validate({"spec": job_spec(overlay)})
    wrong = json.loads(json.dumps(of_kind("run-gpu", "RayJob")[0]))
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(jsonschema.ValidationError):
        known.validate(wrong)


@pytest.mark.parametrize("overlay", [*RUNS, *SCHEDULES, "base"])
def test_every_service_account_is_made(overlay: str) -> None:
    made = {account["metadata"]["name"] for account in of_kind("base", "ServiceAccount")}
    named = {pod["serviceAccountName"] for _, pod in pods(overlay) if "serviceAccountName" in pod}
    assert named
    assert named <= made
    if overlay != "base":
        head, *workers = (group["template"]["spec"]["serviceAccountName"] for group in groups(job_spec(overlay)))
        # KubeRay gives the head's account the rights of the autoscaler; nobody else is to have them.
        assert head not in workers


@pytest.mark.parametrize("overlay", [*RUNS, *SCHEDULES])
def test_the_token_is_kuberay_s_to_hand_out(overlay: str) -> None:
    cluster = job_spec(overlay)["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "sightline-ray-token"}
    pinned = re.search(r"^ray==(.+)$", (INFRA.parent / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert cluster["rayVersion"] == pinned.group(1)
    for group in groups(job_spec(overlay)):
        # KubeRay adds what a container does not set itself: one that did would be the only one with that token.
        assert not [v for v in group["template"]["spec"]["containers"][0].get("env", []) if "RAY_AUTH" in v["name"]]
    guide = (INFRA.parent / "docs" / "kubernetes.md").read_text()
    assert f"sightline-ray-token --from-literal={SECRET_KEY}=" in guide


def test_the_guide_makes_the_secrets_that_the_manifests_name() -> None:
    guide = (INFRA.parent / "docs" / "kubernetes.md").read_text()
    named = {"sightline-ray-token", "sightline-serve-tls"}
    for _, pod in [*pods("base"), *pods("run-gpu")]:
        for container in pod["containers"]:
            named |= {source["secretRef"]["name"] for source in container.get("envFrom", []) if "secretRef" in source}
            for variable in container.get("env", []):
                secret = variable.get("valueFrom", {}).get("secretKeyRef")
                named |= {secret["name"]} if secret else set()
                assert not secret or f"{secret['name']} --from-literal={secret['key']}=" in guide
    for name in named:
        assert re.search(rf"create secret (generic|tls) {name} ", guide), name


def matches(selector: Manifest | None, labels: dict[str, str]) -> bool:
    """Kubernetes's label selectors, as far as these policies use them."""
    wanted = selector or {}
    exist = (expression["key"] in labels for expression in wanted.get("matchExpressions", []))
    return all(labels.get(key) == value for key, value in wanted.get("matchLabels", {}).items()) and all(exist)


def admits(pod: dict[str, str], peer: dict[str, str], port: int, namespace: str = "sightline") -> bool:
    """Whether the policies let `peer` of a namespace reach a port of `pod`: some policy must, once one selects it."""
    policies = [p["spec"] for p in of_kind("base", "NetworkPolicy") if matches(p["spec"]["podSelector"], pod)]
    assert policies
    for rule in (rule for policy in policies for rule in policy.get("ingress", [])):
        ports = [entry["port"] for entry in rule.get("ports", [])]
        for source in rule["from"]:
            spaces = source.get("namespaceSelector")
            here = matches(spaces, {"kubernetes.io/metadata.name": namespace}) if spaces else namespace == "sightline"
            if here and matches(source.get("podSelector"), peer) and (not ports or port in ports):
                return True
    return False


HEAD = {"ray.io/cluster": "c", "ray.io/node-type": "head"}
WORKER = {"ray.io/cluster": "c", "ray.io/node-type": "worker"}
SUBMITTER = {"ray.io/originated-from-crd": "RayJob", "ray.io/originated-from-cr-name": "sightline-index"}
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
SERVE = {"app.kubernetes.io/name": "sightline-serve"}


@pytest.mark.parametrize(
    ("pod", "peer", "port", "namespace", "may"),
    [
        (HEAD, SUBMITTER, 8265, "sightline", True),
        (HEAD, SUBMITTER, 6379, "sightline", False),
        (HEAD, OPERATOR, 8265, "kuberay-system", True),
        (HEAD, OPERATOR, 8265, "elsewhere", False),
        (HEAD, {"app": "prometheus"}, 8080, "monitoring", True),
        (HEAD, {"app": "prometheus"}, 44217, "monitoring", True),
        (HEAD, {"app": "prometheus"}, 8265, "monitoring", False),
        (WORKER, {"app": "prometheus"}, 8080, "monitoring", True),
        (HEAD, WORKER, 6379, "sightline", True),
        (WORKER, HEAD, 12345, "sightline", True),
        (HEAD, WORKER, 6379, "elsewhere", False),
        (HEAD, {"sightline/submits": "true"}, 8265, "sightline", True),
        (HEAD, {"app": "other"}, 8265, "sightline", False),
        (WORKER, SUBMITTER, 8265, "sightline", False),
        (SERVE, {"app": "ingress"}, 8080, "ingress-nginx", True),
        (SERVE, {"app": "prometheus"}, 8080, "monitoring", True),
        (SERVE, WORKER, 8080, "sightline", False),
        ({"app": "anything"}, WORKER, 80, "sightline", False),
    ],
)
def test_network_policies_admit_who_must_come_in(
    pod: dict[str, str], peer: dict[str, str], port: int, namespace: str, may: bool
) -> None:
    assert admits(pod, peer, port, namespace) is may


def test_the_policy_against_everything_is_there() -> None:
    assert {} in [policy["spec"]["podSelector"] for policy in of_kind("base", "NetworkPolicy")]


@pytest.mark.parametrize("overlay", SCHEDULES)
def test_scheduled_runs_neither_overlap_nor_pile_up(overlay: str) -> None:
    cron, spec = of_kind(overlay, "RayCronJob")[0], job_spec(overlay)
    minute, hour, *days = cron["spec"]["schedule"].split()
    assert minute.isdigit()
    assert hour.isdigit()
    assert days == ["*", "*", "*"], "the deadline below is made for once a day"
    rules = spec["deletionStrategy"]["deletionRules"]
    delays = {(rule["policy"], *rule["condition"].values()) for rule in rules}
    longest = max(rule["condition"]["ttlSeconds"] for rule in rules if rule["policy"] == "DeleteCluster")
    # KubeRay has no concurrencyPolicy, and counts the deadline anew for each retry.
    assert spec["backoffLimit"] == 0
    assert spec["activeDeadlineSeconds"] + longest < DAY
    # "DeleteSelf" removes the RayJob, which a TTL does not; KubeRay refuses rules beside shutdownAfterJobFinishes.
    assert "shutdownAfterJobFinishes" not in spec
    assert "ttlSecondsAfterFinished" not in spec
    assert {(policy, state) for policy, state, _ in delays} == {
        (policy, state) for policy in ("DeleteCluster", "DeleteSelf") for state in ("SUCCEEDED", "Failed")
    }
    assert len(cron["metadata"]["name"]) <= 36
    gates = yaml.safe_load((KUBERNETES / "operator-values.yaml").read_text())["featureGates"]
    assert {"name": "RayCronJob", "enabled": True} in gates
    assert {"name": "RayJobDeletionPolicy", "enabled": True} in gates


def test_the_guide_starts_the_next_run_in_a_way_that_starts_one() -> None:
    texts = [(INFRA.parent / "docs" / "kubernetes.md").read_text(), (INFRA / "operations.md").read_text()]
    for text in texts:
        # Applying an unchanged RayJob does nothing: a RayJob runs once.
        assert not re.search(r"kubectl apply [^\n`]*overlays/run-", text)
    assert "kubectl replace --force -k infra/kubernetes/overlays/run-gpu" in texts[0]


def node_types(overlay: str) -> AutoscalingConfig:
    """What Ray's autoscaler makes of the RayCluster that KubeRay starts for a run."""
    cluster = {"metadata": {"name": "c", "namespace": "sightline"}, "spec": job_spec(overlay)["rayClusterSpec"]}
    return AutoscalingConfig(autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster))


@pytest.mark.parametrize(
    ("overlay", "group", "demand"), [("run-gpu", "gpu", {"GPU": 1, "CPU": 4}), ("run-cpu", "cpu", {"CPU": 2})]
)
def test_ray_s_autoscaler_starts_workers_from_none(overlay: str, group: str, demand: dict[str, float]) -> None:
    config = node_types(overlay)
    types = config.get_node_type_configs()
    assert types[group].min_worker_nodes == 0
    request = SchedulingRequest(
        node_type_configs=types,
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(demand) for _ in range(100)]),
        disable_launch_config_check=True,
    )
    launched = {
        str(launch.instance_type): launch.count for launch in ResourceDemandScheduler().schedule(request).to_launch
    }
    assert launched == {group: types[group].max_worker_nodes}
