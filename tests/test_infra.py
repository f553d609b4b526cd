"""What infra/ ships is what its readers accept: launcher, AWS, Docker, Grafana, pip; Kubernetes has its own tests."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jobs import cli
from pipeline.publish.leases import FOLDER
from pipeline.serve.metrics import ServeMetrics

INFRA = Path(__file__).parents[1] / "infra"
RAY = Path(str(distribution("ray").locate_file("ray")))
METRIC = re.compile(r"(?:ray_)?sightline_[a-z_]+")


def exported() -> set[str]:
    """Names under which the metrics of pipeline/run/ray/metrics.py appear."""
    text = (INFRA.parent / "pipeline" / "run" / "ray" / "metrics.py").read_text()
    named = {f"ray_{name}" for name in re.findall(r'"(sightline_[a-z_]+)"', text)}
    block = text[text.index("COUNTERS = {") : text.index("}", text.index("COUNTERS = {"))]
    named |= {f"ray_sightline_{name}_total" for name in re.findall(r'^    "([a-z_]+)":', block, re.MULTILINE)}
    metrics = ServeMetrics()
    metrics.requests.labels("/search", "200").inc()
    metrics.seconds.labels("/search").observe(1)
    metrics.phases.labels("search").observe(1)
    return (
        named
        | {sample.name for family in metrics.registry.collect() for sample in family.samples}
        | {family.name for family in metrics.registry.collect() if family.type == "gauge"}
    )


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


def test_launched_nodes_have_a_token_and_no_public_port() -> None:
    launcher = yaml.safe_load((INFRA / "ray-cluster.yaml").read_text())
    starts = [*launcher["head_start_ray_commands"], *launcher["worker_start_ray_commands"]]
    for command in starts:
        if "ray start" in command:
            assert re.match(
                r"export RAY_AUTH_MODE=token .*; python -m pipeline.run.guard( 127.0.0.1)? && ray start", command
            )
        assert "0.0.0.0" not in command
    assert "RAY_AUTH_MODE=token" in (INFRA / "Dockerfile").read_text()


def test_launched_nodes_have_one_python_and_gpu_nodes_a_gpu_s_faiss() -> None:
    launcher = yaml.safe_load((INFRA / "ray-cluster.yaml").read_text())
    head, gpu = (launcher["available_node_types"][name] for name in ("head", "gpu"))
    # Ubuntu 24.04 has Python 3.12; Ray's own choice of an image is of 2022.
    assert "ubuntu-24.04" in head["node_config"]["ImageId"]
    assert head["node_config"]["ImageId"] == gpu["node_config"]["ImageId"]
    assert "nvidia-driver" in gpu["node_config"]["ImageId"]
    assert gpu["min_workers"] == 0 < gpu["max_workers"] <= launcher["max_workers"]
    assert gpu["resources"]["GPU"] == 1
    *_, install, check = gpu["worker_setup_commands"]
    assert "'.[gpu," in install
    assert check.endswith("python infra/check_node.py gpu")
    # Ray's AWS provider imports it on the head, and no dependency of ours brings it.
    assert "boto3" in "".join(launcher["head_setup_commands"])
    # Ubuntu's own Python takes no packages, and its pip is older than faiss-gpu-cuvs wants.
    setup = launcher["setup_commands"]
    assert [i for i, line in enumerate(setup) if "-m venv" in line] < [
        i for i, line in enumerate(setup) if line.endswith(" pip")
    ]
    lists = ("setup_commands", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    for command in [*(line for name in lists for line in launcher[name]), *gpu["worker_setup_commands"]]:
        subprocess.run(["bash", "-n", "-c", command], check=True)
        assert not re.search(r"(?<![/\w.])(pip|python3? -m pip) install", command), command
    profiles = [node["node_config"]["IamInstanceProfile"]["Name"] for node in (head, gpu)]
    assert profiles == ["sightline-ray-head", "sightline-ray-worker"]


def statements(name: str) -> list[dict[str, Any]]:
    """The statements of a policy, with lists where AWS allows one word in their place."""
    policy = json.loads((INFRA / "aws" / f"{name}.json").read_text())
    assert policy["Version"] == "2012-10-17"
    return [
        {
            key: [value] if key in ("Action", "Resource") and isinstance(value, str) else value
            for key, value in one.items()
        }
        for one in policy["Statement"]
    ]


def allowed(name: str, resource: str) -> set[str]:
    return {action for one in statements(name) if resource in one.get("Resource", []) for action in one["Action"]}


ACTIONS = {
    "list_objects_v2": "s3:ListBucket",
    "head_object": "s3:GetObject",
    "get_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "delete_object": "s3:DeleteObject",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
}
"""S3's right for each of its methods that the code calls; a conditional put needs no other than a put."""


def test_a_run_s_policy_allows_what_the_store_asks_for_and_no_more() -> None:
    asked = set(re.findall(r'_call(?:_s3)?\("([a-z0-9_]+)"', (INFRA.parent / "pipeline/core/s3.py").read_text()))
    assert asked == set(ACTIONS), "say which right a new method needs"
    bucket, root = "arn:aws:s3:::BUCKET", "arn:aws:s3:::BUCKET/index/*"
    given = allowed("index-policy", root) | allowed("index-policy", bucket)
    assert {ACTIONS[method] for method in asked} <= given
    # Parts of a large upload; nothing else is given without being asked for.
    assert given - set(ACTIONS.values()) == {"s3:ListMultipartUploadParts"}
    assert allowed("index-policy", "arn:aws:s3:::BUCKET/photos/*") == {"s3:GetObject"}


def test_the_service_s_policy_writes_leases_only() -> None:
    writes = [one for one in statements("serve-policy") if {"s3:PutObject", "s3:DeleteObject"} & set(one["Action"])]
    assert [one["Resource"] for one in writes] == [[f"arn:aws:s3:::BUCKET/index/{FOLDER}/*"]]
    assert "s3:GetObject" in allowed("serve-policy", "arn:aws:s3:::BUCKET/photos/*")


@pytest.mark.parametrize("name", ["index-policy", "serve-policy"])
def test_what_is_missing_reads_as_missing_not_as_forbidden(name: str) -> None:
    # S3 says 404 to those who may list the bucket. Reading an object has no prefix: StringLike would refuse that.
    listing = [one for one in statements(name) if "s3:ListBucket" in one["Action"]]
    assert [set(one["Condition"]) for one in listing] == [{"StringLikeIfExists"}]


@pytest.mark.parametrize("name", ["index-policy", "serve-policy", "launcher-policy"])
def test_policies_name_actions_and_resources(name: str) -> None:
    for one in statements(name):
        assert not [action for action in one["Action"] if "*" in action]
        assert one["Resource"] != ["*"] or all(action.startswith("ec2:Describe") for action in one["Action"])


def check_node() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_node", INFRA / "check_node.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def torch_of(cuda: str | None, *, sees: bool = True, error: str = "") -> Any:
    """A torch built for a CUDA version, which sees a GPU or does not, and fails on it with an error."""

    def zeros(*_: Any, **__: Any) -> Any:
        if error:
            raise RuntimeError(error)
        return SimpleNamespace(add=lambda _: SimpleNamespace(item=lambda: 1.0))

    device = SimpleNamespace(is_available=lambda: sees)
    return SimpleNamespace(version=SimpleNamespace(cuda=cuda), cuda=device, zeros=zeros)


def faiss_of(gpus: int | None) -> Any:
    """A faiss of the CPU (None), or one that sees so many GPUs."""
    return (
        SimpleNamespace() if gpus is None else SimpleNamespace(StandardGpuResources=object, get_num_gpus=lambda: gpus)
    )


@pytest.mark.parametrize(
    ("kind", "torch", "faiss", "word"),
    [
        ("cpu", torch_of("13.2"), faiss_of(None), ""),
        ("cpu", torch_of(None), faiss_of(None), ""),
        ("cpu", torch_of("13.2"), faiss_of(0), "GPU build"),
        ("gpu", torch_of("13.2"), faiss_of(1), ""),
        ("gpu", torch_of("13.2"), faiss_of(None), "faiss is a CPU build"),
        ("gpu", torch_of("12.8"), faiss_of(1), "CUDA 12.8"),
        ("gpu", torch_of(None), faiss_of(1), "for the CPU"),
    ],
)
def test_wheels_of_another_kind_are_found(kind: str, torch: Any, faiss: Any, word: str) -> None:
    found = "; ".join(check_node().wrong_wheels(kind, torch, faiss))
    assert word in found
    assert bool(found) is bool(word)


@pytest.mark.parametrize(
    ("torch", "faiss", "word"),
    [
        (torch_of("13.2"), faiss_of(1), ""),
        (torch_of("13.2", sees=False), faiss_of(0), "torch sees no GPU"),
        (torch_of("13.2"), faiss_of(0), "faiss sees no GPU"),
        (torch_of("13.2", error="no kernel image\nmore"), faiss_of(1), "cannot compute on the GPU (no kernel image)"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_found(torch: Any, faiss: Any, word: str) -> None:
    found = "; ".join(check_node().wrong_device(torch, faiss))
    assert word in found
    assert bool(found) is bool(word)


def test_the_check_of_a_node_ends_with_one_line() -> None:
    # The wheels of development are those of a CPU node, with or without a GPU beside them.
    assert check_node().main(["cpu"]) == 0
    command = [sys.executable, str(INFRA / "check_node.py"), "--wheels", "gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: this is no gpu node: .*faiss is a CPU build.*\n", done.stderr)


def pins() -> dict[str, str]:
    lines = (INFRA.parent / "constraints.txt").read_text().splitlines()
    return {str(canonicalize_name(name)): version for name, version in (line.split("==") for line in lines)}


def test_everything_that_may_be_asked_for_is_pinned() -> None:
    project = tomllib.loads((INFRA.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *(text for extra in extras.values() for text in extra)]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(pins()[canonicalize_name(wanted.name)]), text
    # What faiss-gpu-cuvs asks for beside what torch has brought already.
    assert {"libcuvs-cu13", "libraft-cu13", "librmm-cu13", "nvidia-curand", "rapids-logger"} <= set(pins())


def test_there_is_one_cuda() -> None:
    assert [name for name in pins() if re.search(r"-cu\d+$", name) and not name.endswith("-cu13")] == []
    extras = tomllib.loads((INFRA.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    # faiss-gpu is built for CUDA 12, torch for 13.
    assert [Requirement(text).name for text in extras["gpu"]] == ["faiss-gpu-cuvs"]
    assert pins()["nvidia-cuda-runtime"].startswith(f"{check_node().CUDA}.")


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_pip_is_new_enough_before_faiss_is_asked_for(extra: str) -> None:
    # pip below 24.1, which Python 3.11 brings along, does not understand the versions that faiss-gpu-cuvs asks for.
    command = ["make", "-n", "-B", "setup", f"FAISS={extra}"]
    made = subprocess.run(command, capture_output=True, text=True, check=True, cwd=INFRA.parent).stdout
    asked = [line.split("constraints.txt ")[1].split(",")[0] for line in made.splitlines() if "pip install" in line]
    assert asked == ["pip", f"-e '.[{extra}"]
    dockerfile = (INFRA / "Dockerfile").read_text()
    assert dockerfile.index("pip install -c constraints.txt pip ") < dockerfile.index('".[$FAISS,')


def test_the_dockerfile_has_no_fault_that_a_linter_finds() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([linter, INFRA / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_query_of_the_dashboard_is_of_a_metric_that_is_exported() -> None:
    board = json.loads((INFRA / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in METRIC.findall(query)}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) == 17
    assert asked - exported() == set()
    assert len([name for name in asked if name.startswith("ray_")]) >= 13
    assert len([name for name in asked if not name.startswith("ray_")]) >= 8


@pytest.mark.parametrize("guide", ["infra/operations.md", "docs/kubernetes.md"])
def test_the_guides_name_only_commands_and_files_that_are_there(guide: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (INFRA.parent / guide).read_text()
    for path in set(re.findall(r"(?<![\w.])infra/[a-zA-Z./_-]*[a-z]", text)):
        assert (INFRA.parent / path).exists(), path
    assert cli.run(["--help"]) == 0
    help_text = capsys.readouterr().out
    for command in set(re.findall(r"`sightline ([a-z]+)", text)):
        assert command in help_text, command
