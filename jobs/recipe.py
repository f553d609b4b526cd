"""From what a user says (options, a recipe file, nothing) to a Recipe, and the objects it needs stored.

What is not said is taken from the ROOT's head, so that a plain `sightline index SOURCE ROOT` goes on as before; in a
new ROOT from the defaults. Nothing is written here: the job stores `blobs` when it really runs.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jobs.weights import Weights, checkpoint_at, local_copy, named_weights
from pipeline.checkpoints import Checkpoint, read_whitening_file
from pipeline.core.errors import NotFoundError, UserError
from pipeline.core.metadata import parsed
from pipeline.core.names import public_url
from pipeline.core.specs import Spec, explain, kinds, spec_class
from pipeline.core.storage import split_location
from pipeline.core.types import Artifact, as_json
from pipeline.features.backbones import pixel_statistics
from pipeline.publish.recipe import Recipe
from pipeline.sources import CarryingSpec
from pipeline.stages.kinds import check_binary
from pipeline.whiten import Whitening, from_components

SETTINGS = ("pooling", "gem_p", "resize", "precision", "decoding", "scales")
"""Options that are fields of an extractor's settings, by the same name."""
DEFAULT_BACKBONE = "mobilenet_v2"
DEFAULT_WEIGHTS = "imagenet"
DEFAULT_INDEXES = ("flat", "ivfpq", "lsh")
RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """What was said on the command line; None is silence."""

    recipe: str | None = None
    backbone: str | None = None
    weights: str | None = None
    model: str | None = None
    pooling: str | None = None
    gem_p: float | None = None
    scales: tuple[float, ...] | None = None
    resize: str | None = None
    precision: str | None = None
    decoding: str | None = None
    whiten: str | None = None
    whiten_power: float | None = None
    dims: int | None = None
    dtype: str | None = None
    indexes: tuple[str, ...] | None = None
    source_kind: str | None = None
    match: str | None = None
    metadata: str | None = None
    source_fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Built:
    """A recipe, and the bytes of the artifacts that it names and that may not be stored yet."""

    recipe: Recipe
    blobs: dict[str, bytes]


def build_recipe(options: RecipeOptions, *, head: Recipe | None, source_kind: str) -> Built:
    """Return the recipe that the options, the head and the defaults make; UserError for what does not go together."""
    blobs: dict[str, bytes] = {}
    base: dict[str, Any] = head.model_dump(mode="json") if head is not None else {"extractor": {"kind": "pooled"}}
    if options.recipe is not None:
        base = _read_recipe(options.recipe)
    body = {
        **base,
        "source": _source(options, base.get("source", {}), source_kind),
        "extractor": _extractor(options, dict(base.get("extractor", {})), blobs),
    }
    for part, family in (("source", "pipeline.sources"), ("extractor", "pipeline.extract")):
        _begin(family, body[part], getattr(head, part, None))
    if options.whiten == "none":
        body["whiten"] = None
    elif options.whiten is not None or options.whiten_power is not None or options.dims is not None:
        body["whiten"] = _whiten(options, base.get("whiten"), blobs)
    elif head is not None and options.recipe is None and body["extractor"] != base["extractor"]:
        body["whiten"] = _unfitted(base.get("whiten"))
    if isinstance(body.get("encode"), dict) and body["extractor"] != base.get("extractor"):
        body["encode"] = _unfitted(body["encode"])
    if options.dtype is not None:
        body["dtype"] = options.dtype
    body["indexes"] = _indexes(options, base)
    try:
        recipe = Recipe.model_validate(body)
    except ValidationError as error:
        raise UserError("recipe", explain(error), "correct the option or the recipe file") from None
    if recipe.encode is not None and not getattr(recipe.extractor, "local", False):
        raise UserError("recipe", f"encodes, but {recipe.extractor.kind} gives one vector an image", "leave encode out")
    if recipe.encode is not None and recipe.encode.method == "mop" and recipe.extractor.kind != "mop":
        raise UserError(
            "recipe", f"encodes {recipe.extractor.kind} by mop, which wants its patches", "use another method"
        )
    check_binary(recipe, head)
    return Built(recipe=recipe, blobs=blobs)


def adopt(recipe: Recipe, head: Recipe | None) -> Recipe:
    """Take over what was fitted for the head, when both state the same descriptors: fitting anew is a new recipe."""
    if head is None or head.declared.descriptor_id != recipe.declared.descriptor_id:
        return recipe
    return recipe.model_copy(update={"whiten": head.whiten, "encode": head.encode})


def _read_recipe(name: str) -> dict[str, Any]:
    named = RECIPES / f"{name}.toml"
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
    if "/" not in name and named.is_file():
        text = named.read_bytes()
    else:
        store, file = split_location(name)
        try:
            text = store.read(file)
        except NotFoundError:
            raise UserError(
                f"--recipe {public_url(name)}", "is no file and no named recipe", f"named: {known}"
            ) from None
    try:
        body = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--recipe {public_url(name)}", f"is not TOML ({error})", "correct the file") from None
    indexes = body.get("indexes")
    if isinstance(indexes, dict):
        body["indexes"] = [{"kind": kind, **settings} for kind, settings in indexes.items()]
    return body


def _source(options: RecipeOptions, base: dict[str, Any], kind: str) -> dict[str, Any]:
    body: dict[str, Any] = {"kind": kind}
    if base.get("kind", kind) == kind:
        body.update(base)
    if options.match is not None:
        body["match"] = options.match
    if options.metadata is not None:
        body["metadata"] = parsed(options.metadata)
    if body.get("metadata") and not issubclass(spec_class("pipeline.sources", kind), CarryingSpec):
        raise UserError("metadata", f"is not carried by {kind} sources", "tar, parquet and arrow ones do")
    return {**body, **options.source_fields}


def _extractor(options: RecipeOptions, base: dict[str, Any], blobs: dict[str, bytes]) -> dict[str, Any]:
    body = {"kind": "pooled", **base}
    settings = spec_class("pipeline.extract", body["kind"]).model_fields
    for name in (*SETTINGS, "backbone", "weights", "model"):
        if getattr(options, name) is not None and ("weights" if name == "model" else name) not in settings:
            raise UserError(f"--{name.replace('_', '-')}", f"is no setting of {body['kind']}", "leave it out")
    if options.model is not None:
        body.update(_from_checkpoint(checkpoint_at(options.model), Path(public_url(options.model)).name, blobs))
    stated = body.get("weights")
    if (
        "weights" in settings
        and options.model is None
        and (options.backbone or options.weights or not isinstance(stated, dict))
    ):
        backbone = options.backbone or body.get("backbone", DEFAULT_BACKBONE)
        name = options.weights or (stated if isinstance(stated, str) else None) or _again(body, backbone)
        weights = named_weights(backbone, name, head=bool(body.get("projection")))
        if backbone.startswith("timm:") and "mean" not in body:
            body["mean"], body["std"] = pixel_statistics(backbone)
        body.update(backbone=backbone, weights=_store(weights, blobs), origin=weights.origin)
    for name in SETTINGS:
        value = getattr(options, name)
        if value is not None:
            body[name] = list(value) if isinstance(value, tuple) else value
    return body


def _again(body: dict[str, Any], backbone: str) -> str:
    """The weights to use with a backbone when none are named: the same kind as before, where that means something."""
    origin = str(body.get("origin", ""))
    if origin and body.get("backbone") != backbone and not origin.startswith(("imagenet", "random:")):
        raise UserError(f"--backbone {backbone}", f"cannot use the weights {origin}", "name others with --weights")
    return origin or DEFAULT_WEIGHTS


def _store(weights: Weights, blobs: dict[str, bytes]) -> dict[str, Any]:
    return _stage(weights.to_bytes(), "model.safetensors", blobs)


def _stage(data: bytes, filename: str, blobs: dict[str, bytes]) -> dict[str, Any]:
    sha = hashlib.sha256(data).hexdigest()
    artifact = Artifact(uri=f"artifacts/{sha}/{filename}", sha256=sha, bytes=len(data))
    blobs[artifact.uri] = data
    return as_json(artifact)


def _from_checkpoint(checkpoint: Checkpoint, name: str, blobs: dict[str, bytes]) -> dict[str, Any]:
    if checkpoint.backbone is None:
        raise UserError(f"--model {name}", "does not say which backbone it is for", "use --backbone and --weights")
    weights = Weights(tensors=checkpoint.tensors, origin=name, backbone=checkpoint.backbone)
    return {"backbone": checkpoint.backbone, "weights": _store(weights, blobs), "origin": name, **checkpoint.settings}


def _whiten(options: RecipeOptions, base: dict[str, Any] | None, blobs: dict[str, bytes]) -> dict[str, Any]:
    body = _unfitted(base) or {"method": "pca"}
    if options.whiten_power is not None:
        body["power"] = options.whiten_power
    if options.dims is not None:
        body["dims"] = options.dims
    if options.whiten is None or options.whiten == "pca":
        return {**body, "method": "pca"}
    whitening = whitening_from(options.whiten, power=float(body.get("power", 0.5)), dims=body.get("dims"))
    return {**body, "method": "file", "artifact": _stage(whitening.to_bytes(), "whitening.safetensors", blobs)}


def _unfitted(base: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (base or {}).items() if name not in ("artifact", "kind")}


def whitening_from(location: str, *, power: float, dims: int | None) -> Whitening:
    """Read --whiten FILE: Sightline's own, a cirtorch side file, or FILE#NAME for one inside a DIR or cirtorch file."""
    where, _, name = location.partition("#")
    with local_copy(where) as path:
        parts = read_whitening_file(path, name or None)
    if parts.variance is not None:
        return from_components(parts.mean, parts.components, parts.variance, power=power, dims=dims)
    projection = parts.components.T
    if dims is not None and dims > projection.shape[1]:
        raise UserError(f"--dims {dims}", f"exceeds the {projection.shape[1]} dimensions of {public_url(where)}")
    return Whitening(mean=parts.mean, projection=projection[:, :dims])


def _indexes(options: RecipeOptions, base: dict[str, Any]) -> list[dict[str, Any]]:
    known = {spec["kind"]: spec for spec in base.get("indexes", [])}
    names = options.indexes if options.indexes is not None else tuple(known) or DEFAULT_INDEXES
    unknown = [name for name in names if name not in kinds("pipeline.index")]
    if unknown:
        raise UserError(f"--indexes {unknown[0]}", "is not known", f"choose from {', '.join(kinds('pipeline.index'))}")
    return [known.get(name, _begin("pipeline.index", {"kind": name}, None)) for name in dict.fromkeys(names)]


def _begin(family: str, body: dict[str, Any], before: Spec | None) -> dict[str, Any]:
    """Complete settings by those that a new recipe starts with; of a kind that the head has, by the head's."""
    initial = spec_class(family, body["kind"]).initial
    inherited = before.to_json() if before is not None and before.kind == body["kind"] else initial
    for name in initial:
        if name in inherited:
            body.setdefault(name, inherited[name])
    return body
