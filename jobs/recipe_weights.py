"""The settings of an extractor, from options, recipe file and head: which network with which weights, and the rest.

What is named again is what it was: the same checkpoint, seed or backbone changes nothing that was set since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.weights import Weights, checkpoint_at, named_weights
from pipeline.checkpoints import Checkpoint
from pipeline.core.errors import UserError
from pipeline.core.names import RANDOM_WEIGHTS, public_url
from pipeline.core.specs import Spec, spec_class
from pipeline.core.types import Artifact, as_json
from pipeline.features.backbones import has_own_statistics, pixel_statistics

SETTINGS = ("pooling", "gem_p", "resize", "precision", "decoding", "max_pixels", "scales")
"""Options that are fields of an extractor's settings, by the same name."""
OF_CHECKPOINTS = (
    *("pooling", "gem_p", "projection", "l2_before_projection", "center_bias", "regional", "local_whitening"),
    *("scale_resize", "scale_pooling", "mean", "std"),
)
"""Settings that a checkpoint states of its network (see pipeline/checkpoints.py); they belong to its weights."""
DEFAULT_BACKBONE = "efficientnet_lite0"
"""Its weights come with the installation."""
DEFAULT_WEIGHTS = "imagenet"


@dataclass(frozen=True, kw_only=True)
class NamedSettings:
    """What the command line says of an extractor; None, or nothing, is silence. settings: those of SETTINGS."""

    model: str | None = None
    backbone: str | None = None
    weights: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every option that was given."""
        networks = [name for name in ("backbone", "weights", "model") if getattr(self, name) is not None]
        return (*self.settings, *networks)


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What an extractor's settings start from. before: the head's extractor, where it is of the same kind.

    inherited: the settings are the head's own; otherwise a recipe file, or nothing, states them.
    """

    body: dict[str, Any]
    before: Spec | None
    inherited: bool


def extractor_settings(options: NamedSettings, stated: Stated, blobs: dict[str, bytes]) -> dict[str, Any]:
    """Return the settings as JSON; weights that they name and that may not be stored yet are added to `blobs`."""
    body = dict(stated.body)
    fields = spec_class("pipeline.extract", body["kind"]).model_fields
    for name in options.names:
        if ("weights" if name == "model" else name) not in fields:
            raise UserError(f"--{name.replace('_', '-')}", f"is no setting of {body['kind']}", "leave it out")
    # These are looked up before the settings are checked as a whole.
    for name, form in (("backbone", str), ("weights", str | dict)):
        if name in fields and not isinstance(body.get(name) or "", form):
            raise UserError(f"extract {body['kind']}", f"{name}: is no name (got {body[name]!r:.80})", "write a string")
    if options.model is not None:
        _use_checkpoint(options.model, stated, body, blobs)
    elif "weights" in fields:
        _use_weights(options, stated, body, blobs)
    for name, value in options.settings.items():
        body[name] = list(value) if isinstance(value, tuple) else value
    return body


def is_weight_file(origin: str) -> bool:
    """Tell whether weights come from a file, not from a name that always means the same."""
    return origin != DEFAULT_WEIGHTS and not origin.startswith(RANDOM_WEIGHTS)


def stage_artifact(data: bytes, filename: str, blobs: dict[str, bytes]) -> dict[str, Any]:
    """Return the artifact that these bytes will be, as JSON; they are added to `blobs`."""
    sha = hashlib.sha256(data).hexdigest()
    artifact = Artifact(uri=f"artifacts/{sha}/{filename}", sha256=sha, bytes=len(data))
    blobs[artifact.uri] = data
    return as_json(artifact)


def _use_checkpoint(location: str, stated: Stated, body: dict[str, Any], blobs: dict[str, bytes]) -> None:
    name = Path(public_url(location)).name
    found = _from_checkpoint(checkpoint_at(location), name, blobs)
    if stated.inherited:
        if _sha(found["weights"]) == _sha(body.get("weights")):
            # The same checkpoint again: what was set beside it stays.
            return
        for setting in OF_CHECKPOINTS:
            body.pop(setting, None)
    body.update(found)


def _from_checkpoint(checkpoint: Checkpoint, name: str, blobs: dict[str, bytes]) -> dict[str, Any]:
    if checkpoint.backbone is None:
        raise UserError(f"--model {name}", "does not say which backbone it is for", "use --backbone and --weights")
    weights = Weights(tensors=checkpoint.tensors, origin=name, backbone=checkpoint.backbone)
    return {"backbone": checkpoint.backbone, "weights": _store(weights, blobs), "origin": name, **checkpoint.settings}


def _use_weights(options: NamedSettings, stated: Stated, body: dict[str, Any], blobs: dict[str, bytes]) -> None:
    before = _weights_of(stated.before)
    whose = body.get("backbone") or before.get("backbone") or _default_backbone(body["kind"])
    backbone = options.backbone or whose
    same = bool(before) and backbone == before["backbone"]
    given = body.get("weights")
    name = options.weights or (given if isinstance(given, str) else None)
    if name is None and isinstance(given, dict) and backbone == whose:
        body["backbone"] = backbone
        return
    if not stated.inherited and name is None and same:
        # A file that names no weights goes on with the head's, and with what a checkpoint said of them.
        body.update(backbone=backbone, weights=before["weights"], origin=before["origin"])
        if is_weight_file(before["origin"]):
            _inherit(body, before, OF_CHECKPOINTS)
    elif same and name is not None and name == before["origin"] and not is_weight_file(name):
        # Named weights are what they were when they were stored, whatever another release would make of the name.
        body.update(backbone=backbone, weights=before["weights"], origin=before["origin"])
    else:
        name = name or _again(before if stated.inherited else {}, backbone)
        weights = named_weights(backbone, name, head=bool(body.get("projection")))
        body.update(backbone=backbone, weights=_store(weights, blobs), origin=weights.origin)
    if same:
        _inherit(body, before, ("mean", "std") if has_own_statistics(backbone) else ())
        return
    if stated.inherited and before:
        # Pixel statistics are the network's.
        body.pop("mean", None)
        body.pop("std", None)
    if has_own_statistics(backbone) and "mean" not in body:
        body["mean"], body["std"] = pixel_statistics(backbone)


def _weights_of(before: Spec | None) -> dict[str, Any]:
    """Return the settings of the head's extractor, defaults included, if it is a network's; {} if not."""
    whole = before.model_dump(mode="json") if before is not None else {}
    return whole if "weights" in whole else {}


def _inherit(body: dict[str, Any], before: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if name in before:
            body.setdefault(name, before[name])


def _default_backbone(kind: str) -> str:
    field = spec_class("pipeline.extract", kind).model_fields["backbone"]
    return DEFAULT_BACKBONE if field.is_required() else str(field.default)


def _again(before: dict[str, Any], backbone: str) -> str:
    """The weights to use with another backbone when none are named: the same kind as before, if that means anything."""
    origin = str(before.get("origin", ""))
    if origin and is_weight_file(origin):
        raise UserError(f"--backbone {backbone}", f"cannot use the weights {origin}", "name others with --weights")
    return origin or DEFAULT_WEIGHTS


def _store(weights: Weights, blobs: dict[str, bytes]) -> dict[str, Any]:
    return stage_artifact(weights.to_bytes(), "model.safetensors", blobs)


def _sha(artifact: Any) -> str:
    return str(artifact.get("sha256", "")) if isinstance(artifact, dict) else ""
