"""Foreign checkpoints: DIR, cirtorch and plain weight files, understood and written once as safetensors + JSON.

Pickled bytes are read by core/unpickle.py, which runs nothing. What a checkpoint says about its network becomes fields
of the pooled extractor, under torchvision's tensor names; networks themselves are built elsewhere.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.core.artifacts import file_digest
from pipeline.core.errors import CheckpointRefused, UserError
from pipeline.core.unpickle import StubPca, load_foreign

log = logging.getLogger("sightline")

MODEL_FORMAT = "sightline-model-1"
DIR_POOLING = {"gem": "gem", "max": "mac", "avg": "spoc"}
CIRTORCH_POOLING = {"gem": "gem", "gemmp": "gem", "mac": "mac", "spoc": "spoc", "rmac": "rmac"}
BACKBONES = (
    *("alexnet", "vgg16", "vgg19", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("densenet121", "densenet161", "densenet169", "densenet201", "squeezenet1_0", "squeezenet1_1"),
)
"""Architectures of DIR and cirtorch checkpoints that torchvision has under the same name."""
_DENSENET = (
    *("conv0", "norm0", "relu0", "pool0", "denseblock1", "transition1", "denseblock2", "transition2"),
    *("denseblock3", "transition3", "denseblock4", "norm5"),
)
_RESNET = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True, kw_only=True)
class WhiteningParts:
    """mean (d,), components (k, d) as rows, and their variance (k,) when the components are not yet scaled by it."""

    mean: npt.NDArray[np.float64]
    components: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """tensors under torchvision's names, with pool.p, projection.*, regional.*; settings are its fields."""

    format: Literal["weights", "dir", "cirtorch", "sightline"]
    backbone: str | None
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)
    whitenings: Mapping[str, WhiteningParts] = field(default_factory=dict)
    source_sha256: str = ""


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a weight file, a DIR or cirtorch checkpoint, or a folder (or its model.json) written by `write_checkpoint`.

    CheckpointRefused names the global that a hostile file asks for, or says what is malformed.
    """
    if path.is_dir() or path.name == "model.json":
        return _read_own(path if path.is_dir() else path.parent)
    sha = file_digest(path)
    if path.suffix == ".safetensors":
        return Checkpoint(format="weights", backbone=None, tensors=_safetensors(path), source_sha256=sha)
    _check_name(path, sha)
    body = load_foreign(path)
    if isinstance(body, dict) and "state_dict" in body and "model_options" in body:
        return _from_dir(body, path.name, sha)
    if isinstance(body, dict) and "state_dict" in body and "meta" in body:
        return _from_cirtorch(body, path.name, sha)
    tensors = _tensors(body.get("state_dict", body) if isinstance(body, dict) else body, path.name)
    return Checkpoint(format="weights", backbone=None, tensors=tensors, source_sha256=sha)


def read_whitening_file(path: Path, name: str | None = None) -> WhiteningParts:
    """Read a whitening: Sightline's safetensors, cirtorch's {m, P}, or one by name out of a checkpoint."""
    if path.suffix == ".safetensors":
        arrays = {key: value.double().numpy() for key, value in _safetensors(path).items()}
        if {"mean", "projection"} <= set(arrays):
            return _checked(WhiteningParts(mean=arrays["mean"], components=arrays["projection"].T), path.name)
        if {"mean", "components"} <= set(arrays):
            parts = WhiteningParts(
                mean=arrays["mean"], components=arrays["components"], variance=arrays.get("variance")
            )
            return _checked(parts, path.name)
        raise UserError(path.name, "holds no whitening", "it should have mean and projection")
    body = None if path.is_dir() else load_foreign(path)
    if isinstance(body, dict) and {"m", "P"} <= set(body):
        return _linear(body, path.name)
    known = read_checkpoint(path).whitenings
    if name is None and len(known) == 1:
        name = next(iter(known))
    if name is None or name not in known:
        names = ", ".join(sorted(known)) or "none"
        raise UserError(
            f"{path.name}#{name or ''}", f"is no whitening of that file, which has {names}", "write FILE#NAME"
        )
    return known[name]


def write_checkpoint(checkpoint: Checkpoint, folder: Path) -> list[Path]:
    """Write model.safetensors, model.json and whitening-*.safetensors, for `read_checkpoint`; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "model.safetensors", folder / "model.json"]
    save_file({name: value.contiguous() for name, value in sorted(checkpoint.tensors.items())}, files[0])
    whitenings = {}
    for name, parts in sorted(checkpoint.whitenings.items()):
        whitenings[name] = f"whitening-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}.safetensors"
        arrays = {"mean": parts.mean, "components": parts.components, "variance": parts.variance}
        tensors = {key: torch.from_numpy(np.ascontiguousarray(v)) for key, v in arrays.items() if v is not None}
        files.append(folder / whitenings[name])
        save_file(tensors, files[-1])
    body = {
        "format": MODEL_FORMAT,
        "backbone": checkpoint.backbone,
        "settings": dict(checkpoint.settings),
        "whitenings": whitenings,
        "source": {"format": checkpoint.format, "sha256": checkpoint.source_sha256},
        "sha256": {file.name: file_digest(file) for file in files if file.suffix == ".safetensors"},
    }
    files[1].write_text(json.dumps(body, indent=2, sort_keys=True) + "\n")
    return files


def _read_own(folder: Path) -> Checkpoint:
    try:
        body = json.loads((folder / "model.json").read_text())
        assert body["format"] == MODEL_FORMAT
        digests, names = dict(body["sha256"]), dict(body["whitenings"])
        plain = all(Path(name).name == name for name in digests)
        if not plain or any(file_digest(folder / name) != sha for name, sha in digests.items()):
            raise CheckpointRefused(str(folder), "does not match the digests in its model.json", "convert it again")
        return Checkpoint(
            format="sightline",
            backbone=body["backbone"],
            tensors=_safetensors(folder / "model.safetensors"),
            settings=body["settings"],
            whitenings={name: read_whitening_file(folder / Path(file).name) for name, file in names.items()},
            source_sha256=body["source"]["sha256"],
        )
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise UserError(str(folder), f"holds no sound model.json of {MODEL_FORMAT}", "convert it again") from None


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointRefused(path.name, f"is no safetensors file ({error})", "fetch it again") from None
    return tensors


def _tensors(state: Any, name: str) -> dict[str, Tensor]:
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointRefused(name, "holds no state_dict of tensors", "give weights, or a DIR or cirtorch checkpoint")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _from_dir(body: dict[str, Any], name: str, sha: str) -> Checkpoint:
    options = dict(body["model_options"])
    arch = str(options.get("arch", ""))
    backbone = _supported(arch.removesuffix("_rmac"), arch, name)
    pooling = str(options.get("pooling", "gem"))
    renamed = {"adpool.p": "pool.p", "fc.weight": "projection.weight", "fc.bias": "projection.bias"}
    tensors = {renamed.get(key, key): value for key, value in _tensors(body["state_dict"], name).items()}
    without_fc = bool(options.get("without_fc", False))
    if without_fc:
        tensors = {key: value for key, value in tensors.items() if not key.startswith("projection.")}
    if pooling not in DIR_POOLING:
        raise UserError(name, f"pools by {pooling!r}", f"only {', '.join(DIR_POOLING)} are known")
    settings = {
        "pooling": DIR_POOLING[pooling],
        "gem_p": None if "pool.p" in tensors else float(options.get("gemp", 3)),
        "projection": not without_fc,
        "l2_before_projection": bool(options.get("norm_features", False)),
        "center_bias": float(options.get("center_bias", 0)),
        "scale_resize": "image",
        "scale_pooling": "signed",
        **_mean_std(body.get("preprocess"), name),
    }
    pca = body.get("pca") or {}
    whitenings = {str(key): _pca(value, f"{name}: pca {key}") for key, value in pca.items()}
    return Checkpoint(
        format="dir", backbone=backbone, tensors=tensors, settings=settings, whitenings=whitenings, source_sha256=sha
    )


def _from_cirtorch(body: dict[str, Any], name: str, sha: str) -> Checkpoint:
    meta = dict(body["meta"])
    arch, pooling = str(meta.get("architecture", "")), str(meta.get("pooling", "gem"))
    backbone = _supported(arch, arch, name)
    if pooling not in CIRTORCH_POOLING:
        raise UserError(name, f"pools by {pooling!r}", f"only {', '.join(CIRTORCH_POOLING)} are known")
    tensors = {_cirtorch_name(k, backbone): v for k, v in _tensors(body["state_dict"], name).items()}
    regional = bool(meta.get("regional", False))
    settings: dict[str, Any] = {
        "pooling": CIRTORCH_POOLING[pooling],
        "gem_p": None,
        "regional": regional,
        "local_whitening": bool(meta.get("local_whitening", False)),
        "projection": bool(meta.get("whitening", False)),
        "l2_before_projection": True,
        "scale_resize": "tensor",
        "scale_pooling": "power",
        **_mean_std(meta, name),
    }
    if settings["pooling"] != "gem" or ("regional.p" if regional else "pool.p") not in tensors:
        settings["gem_p"] = 3.0
    whitenings = {
        f"{dataset}/{scales}": _linear(value, f"{name}: Lw {dataset}/{scales}")
        for dataset, kinds in (meta.get("Lw") or {}).items()
        for scales, value in kinds.items()
    }
    return Checkpoint(
        format="cirtorch",
        backbone=backbone,
        tensors=tensors,
        settings=settings,
        whitenings=whitenings,
        source_sha256=sha,
    )


def _cirtorch_name(key: str, backbone: str) -> str:
    renamed = {"pool.rpool.": "regional.", "pool.whiten.": "regional.", "whiten.": "projection.", "lwhiten.": "local."}
    for old, new in renamed.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    head, _, rest = key.partition(".")
    number, _, tail = rest.partition(".")
    if head != "features" or not number.isdigit():
        return key
    if backbone.startswith("resnet") and int(number) < len(_RESNET):
        return f"{_RESNET[int(number)]}.{tail}"
    if backbone.startswith("densenet") and int(number) < len(_DENSENET):
        return f"features.{_DENSENET[int(number)]}.{tail}"
    return key


def _supported(backbone: str, arch: str, name: str) -> str:
    if backbone not in BACKBONES:
        raise UserError(name, f"is for the architecture {arch!r}", f"only {', '.join(BACKBONES)} are known")
    return backbone


def _mean_std(source: Any, name: str) -> dict[str, list[float]]:
    found = {}
    for key in ("mean", "std"):
        value = source.get(key) if isinstance(source, Mapping) else None
        if value is not None:
            numbers = [float(v) for v in value]
            if len(numbers) != 3 or not np.isfinite(numbers).all() or (key == "std" and min(numbers) <= 0):
                raise CheckpointRefused(name, f"states an unusable {key} {numbers}")
            found[key] = numbers
    return found


def _pca(value: Any, name: str) -> WhiteningParts:
    attributes = vars(value) if isinstance(value, StubPca) else {}
    if not {"mean_", "components_", "explained_variance_"} <= set(attributes):
        raise CheckpointRefused(name, "is no fitted scikit-learn PCA")
    variance = np.asarray(attributes["explained_variance_"], np.float64)
    # With whiten=False scikit-learn (and DIR's transform) rotates only: a variance of ones says just that.
    if not attributes.get("whiten", True):
        variance = np.ones_like(variance)
    mean, components = np.asarray(attributes["mean_"], np.float64), np.asarray(attributes["components_"], np.float64)
    return _checked(WhiteningParts(mean=mean, components=components, variance=variance), name)


def _linear(value: Any, name: str) -> WhiteningParts:
    if not isinstance(value, Mapping) or not {"m", "P"} <= set(value):
        raise CheckpointRefused(name, "is no whitening {m, P}")
    mean, projection = np.asarray(value["m"], np.float64).reshape(-1), np.asarray(value["P"], np.float64)
    return _checked(WhiteningParts(mean=mean, components=projection), name)


def _checked(parts: WhiteningParts, name: str) -> WhiteningParts:
    k, d = parts.components.shape if parts.components.ndim == 2 else (0, 0)
    fits = k > 0 and parts.mean.shape == (d,) and (parts.variance is None or parts.variance.shape == (k,))
    arrays = [a for a in (parts.mean, parts.components, parts.variance) if a is not None]
    if not fits or not all(np.isfinite(a).all() for a in arrays):
        raise CheckpointRefused(name, "has shapes that do not fit, or values that are not finite")
    return parts


def _check_name(path: Path, sha: str) -> None:
    stated = re.search(r"-([0-9a-f]{7})\.pth$", path.name)
    if stated and not sha.startswith(stated[1]):
        log.warning("%s: its name ends in %s but its sha256 begins with %s", path.name, stated[1], sha[:7])
