from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.checkpoints import read_checkpoint, read_whitening_file, write_checkpoint
from pipeline.core.errors import CheckpointRefused, UserError
from pipeline.features.backbones import random_tensors


class Pca:
    """A class of scikit-learn's old name, made for pickling only."""


Pca.__module__, Pca.__qualname__, Pca.__name__ = "sklearn.decomposition.pca", "PCA", "PCA"


@pytest.fixture
def old_sklearn() -> Iterator[None]:
    names = ("sklearn", "sklearn.decomposition", "sklearn.decomposition.pca")
    saved = {name: sys.modules.get(name) for name in names}
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    sys.modules[names[-1]].PCA = Pca  # type: ignore[attr-defined]
    yield
    for name in names:
        del sys.modules[name]
        module = saved[name]
        if module is not None:
            sys.modules[name] = module


def fitted_pca(d: int = 8) -> Pca:
    pca = Pca()
    generator = np.random.default_rng(0)
    pca.__dict__.update(
        mean_=generator.normal(size=d),
        components_=np.linalg.qr(generator.normal(size=(d, d)))[0],
        explained_variance_=np.sort(generator.random(d))[::-1].copy(),
        whiten=True,
        n_components=d,
        noise_variance_=np.float64(0.0),
    )
    return pca


def dir_body(**options: Any) -> dict[str, Any]:
    state = {f"module.{name}": value for name, value in random_tensors("resnet18", 0).items()}
    state |= {
        "module.adpool.p": torch.tensor([2.7]),
        "module.fc.weight": torch.rand(16, 512),
        "module.fc.bias": torch.rand(16),
    }
    return {"state_dict": state, "model_options": {"arch": "resnet18_rmac", "out_dim": 16, "pooling": "gem", **options}}


def save(path: Path, body: object, protocol: int = 2) -> Path:
    torch.save(body, path, pickle_protocol=protocol)
    return path


def test_a_dir_checkpoint_gives_torchvision_names_and_extractor_fields(tmp_path: Path) -> None:
    body = dir_body(norm_features=True, center_bias=0.5)
    body["preprocess"] = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": 224}
    found = read_checkpoint(save(tmp_path / "dir.pt", body))
    assert (found.format, found.backbone) == ("dir", "resnet18")
    assert found.tensors["pool.p"].item() == pytest.approx(2.7)
    assert found.tensors["projection.weight"].shape == (16, 512)
    assert "layer4.1.bn2.running_var" in found.tensors
    assert found.settings["gem_p"] is None
    assert found.settings["l2_before_projection"] is True
    assert found.settings["center_bias"] == 0.5
    assert found.settings["mean"] == [0.1, 0.2, 0.3]


def test_a_dir_network_without_head_has_no_projection(tmp_path: Path) -> None:
    found = read_checkpoint(save(tmp_path / "dir.pt", dir_body(without_fc=True)))
    assert found.settings["projection"] is False
    assert not [name for name in found.tensors if name.startswith("projection")]


@pytest.mark.usefixtures("old_sklearn")
def test_a_scikit_learn_pca_inside_a_dir_file_is_read_as_arrays(tmp_path: Path) -> None:
    pca = fitted_pca()
    path = save(tmp_path / "dir.pt", {**dir_body(), "pca": {"Landmarks_clean": pca}})
    parts = read_checkpoint(path).whitenings["Landmarks_clean"]
    np.testing.assert_array_equal(parts.mean, vars(pca)["mean_"])
    np.testing.assert_array_equal(parts.components, vars(pca)["components_"])
    assert parts.variance is not None
    np.testing.assert_array_equal(parts.variance, vars(pca)["explained_variance_"])
    by_name = read_whitening_file(path, "Landmarks_clean")
    np.testing.assert_array_equal(by_name.components, parts.components)
    with pytest.raises(UserError, match="Landmarks_clean"):
        read_whitening_file(path, "Oxford")


def test_a_cirtorch_checkpoint_gives_torchvision_names_and_its_lw(tmp_path: Path) -> None:
    names = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    state = {}
    for name, value in random_tensors("resnet18", 0).items():
        head, _, rest = name.partition(".")
        state[f"features.{names[head]}.{rest}"] = value
    state |= {"pool.p": torch.tensor([2.9]), "whiten.weight": torch.rand(4, 512), "whiten.bias": torch.rand(4)}
    lw = {"m": np.random.default_rng(0).normal(size=(4, 1)), "P": np.eye(4)}
    meta = {
        "architecture": "resnet18",
        "pooling": "gem",
        "whitening": True,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "Lw": {"retrieval-SfM-120k": {"ss": lw, "ms": lw}},
    }
    path = save(tmp_path / "cirtorch.pth", {"meta": meta, "state_dict": state})
    found = read_checkpoint(path)
    assert (found.format, found.backbone) == ("cirtorch", "resnet18")
    assert set(random_tensors("resnet18", 0)) <= set(found.tensors)
    assert torch.equal(found.tensors["layer2.0.conv1.weight"], state["features.5.0.conv1.weight"])
    assert found.tensors["projection.weight"].shape == (4, 512)
    assert found.settings["projection"] is True
    assert sorted(found.whitenings) == ["retrieval-SfM-120k/ms", "retrieval-SfM-120k/ss"]
    assert read_whitening_file(path, "retrieval-SfM-120k/ms").mean.shape == (4,)


def test_a_densenet_of_cirtorch_is_renamed_block_by_block(tmp_path: Path) -> None:
    ours = random_tensors("densenet121", 0)
    order = [*("conv0", "norm0", "relu0", "pool0", "denseblock1", "transition1", "denseblock2", "transition2")]
    order += ["denseblock3", "transition3", "denseblock4", "norm5"]
    state = {}
    for name, value in ours.items():
        _, block, rest = name.split(".", 2)
        state[f"features.{order.index(block)}.{rest}"] = value
    body = {"meta": {"architecture": "densenet121", "pooling": "mac"}, "state_dict": state}
    found = read_checkpoint(save(tmp_path / "d.pth", body))
    assert set(found.tensors) == set(ours)
    assert found.settings["pooling"] == "mac"


def test_a_side_file_of_cirtorch_is_a_whitening(tmp_path: Path) -> None:
    path = save(tmp_path / "net_whiten.pth", {"m": np.ones((3, 1)), "P": np.eye(3)})
    parts = read_whitening_file(path)
    assert parts.mean.tolist() == [1, 1, 1]
    assert parts.variance is None


def test_a_converted_checkpoint_says_the_same(tmp_path: Path) -> None:
    source = read_checkpoint(save(tmp_path / "dir.pt", dir_body()))
    files = write_checkpoint(source, tmp_path / "out")
    assert [file.name for file in files] == ["model.safetensors", "model.json"]
    again = read_checkpoint(tmp_path / "out")
    assert (again.format, again.backbone, again.settings) == ("sightline", source.backbone, source.settings)
    assert all(torch.equal(again.tensors[name], value) for name, value in source.tensors.items())
    assert again.source_sha256 == source.source_sha256


def test_a_converted_checkpoint_with_changed_bytes_is_refused(tmp_path: Path) -> None:
    write_checkpoint(read_checkpoint(save(tmp_path / "dir.pt", dir_body())), tmp_path / "out")
    weights = tmp_path / "out" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(CheckpointRefused, match="digests"):
        read_checkpoint(tmp_path / "out")


class Evil:
    """Unpickling this the ordinary way would run a command."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._target}",)


class EvilEval:
    """Unpickling this the ordinary way would evaluate text."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1 + 1",)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("old", [False, True])
def test_a_hostile_checkpoint_is_refused_by_the_name_of_what_it_asks_for(
    tmp_path: Path, protocol: int, old: bool
) -> None:
    target = tmp_path / "touched"
    path = tmp_path / "evil.pth"
    torch.save(
        {**dir_body(), "extra": Evil(target)}, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not old
    )
    with pytest.raises(CheckpointRefused, match=r"(posix|os)\.system") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_builtins_are_refused_too(tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match="eval"):
        read_checkpoint(save(tmp_path / "evil.pth", {"state_dict": EvilEval()}))


def test_classes_outside_the_allow_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match="Linear"):
        read_checkpoint(save(tmp_path / "module.pth", nn.Linear(2, 2)))


@pytest.mark.parametrize("data", [b"", b"garbage" * 100, b"PK\x03\x04" + bytes(100), b"\x80\x02K\x01."])
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    with pytest.raises(CheckpointRefused) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert "x.pth" in str(caught.value)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", dir_body())
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CheckpointRefused):
        read_checkpoint(path)


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="resnext101_rmac"):
        read_checkpoint(save(tmp_path / "x.pt", dir_body(arch="resnext101_rmac")))


def test_local_whitening_is_taken_over(tmp_path: Path) -> None:
    state = {"lwhiten.weight": torch.eye(4), "lwhiten.bias": torch.ones(4)}
    body = {"meta": {"architecture": "resnet18", "local_whitening": True}, "state_dict": state}
    found = read_checkpoint(save(tmp_path / "x.pth", body))
    assert found.settings["local_whitening"] is True
    assert set(found.tensors) == {"local.weight", "local.bias"}


def test_a_whitening_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match="finite"):
        read_whitening_file(save(tmp_path / "w.pth", {"m": np.full((3, 1), np.nan), "P": np.eye(3)}))


def test_a_name_that_states_another_digest_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_checkpoint(save(tmp_path / "net-0123abc.pth", dir_body()))
    assert "0123abc" in caplog.text


def test_the_real_weight_files_are_read(real_data: Path) -> None:
    for path in sorted((real_data / "weights").glob("*.pth")):
        found = read_checkpoint(path)
        assert found.format == "weights"
        assert any(name.startswith("features.") for name in found.tensors)
