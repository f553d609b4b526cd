"""What infra/ ships is what its readers accept: Ray's launcher, KubeRay, Docker, Grafana."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

INFRA = Path(__file__).parents[1] / "infra"
RAY = Path(str(distribution("ray").locate_file("ray")))
METRIC = re.compile(r"ray_sightline_[a-z_]+")


def exported() -> set[str]:
    """Names under which the metrics of pipeline/run/ray/metrics.py appear."""
    text = (INFRA.parent / "pipeline" / "run" / "ray" / "metrics.py").read_text()
    named = {f"ray_{name}" for name in re.findall(r'"(sightline_[a-z_]+)"', text)}
    block = text[text.index("COUNTERS = {") : text.index("}", text.index("COUNTERS = {"))]
    return named | {f"ray_sightline_{name}_total" for name in re.findall(r'^    "([a-z_]+)":', block, re.MULTILINE)}


def strict(schema: Any) -> Any:
    """A CRD's schema that refuses unknown fields, where the CRD says what there may be."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def test_the_launcher_s_file_is_of_ray_s_schema() -> None:
    schema = json.loads((RAY / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load((INFRA / "ray-cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "max_worker": 8}, schema)


def test_the_ray_job_is_of_kuberay_s_schema(real_data: Path) -> None:
    crd = yaml.safe_load((real_data.parent / "schemas" / "ray.io_rayjobs.yaml").read_text())
    schema = next(v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"] if v["name"] == "v1")
    job = yaml.safe_load((INFRA / "kuberay" / "rayjob.yaml").read_text())
    jsonschema.validate(job, strict(schema))
    wrong = json.loads(json.dumps(job))
    wrong["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, strict(schema))


def test_tokens_are_on_and_no_port_is_public() -> None:
    launcher = yaml.safe_load((INFRA / "ray-cluster.yaml").read_text())
    starts = [*launcher["head_start_ray_commands"], *launcher["worker_start_ray_commands"]]
    for command in starts:
        if "ray start" in command:
            assert re.match(r"export RAY_AUTH_MODE=token .*guard( 127.0.0.1)? && ray start", command)
        assert "0.0.0.0" not in command
    job = yaml.safe_load((INFRA / "kuberay" / "rayjob.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        variables = {v["name"]: v for v in group["template"]["spec"]["containers"][0]["env"]}
        assert variables["RAY_AUTH_MODE"]["value"] == "token"
        assert "secretKeyRef" in variables["RAY_AUTH_TOKEN"]["valueFrom"]
    assert "RAY_AUTH_MODE=token" in (INFRA / "Dockerfile").read_text()


def test_the_dockerfile_has_no_fault_that_a_linter_finds() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([linter, INFRA / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_query_of_the_dashboard_is_of_a_metric_that_is_exported() -> None:
    board = json.loads((INFRA / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in METRIC.findall(query)}
    assert len(board["panels"]) == 11
    assert asked - exported() == set()
    assert len(asked) >= 13


def test_the_guide_names_only_commands_and_files_that_are_there() -> None:
    guide = (INFRA / "operations.md").read_text()
    for path in set(re.findall(r"`infra/([a-z./-]+)`", guide)):
        assert (INFRA / path).exists(), path
    help_text = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "--help"], capture_output=True, text=True, check=True, cwd=INFRA.parent
    ).stdout
    for command in set(re.findall(r"`sightline ([a-z]+)", guide)):
        assert command in help_text, command
