"""From what a user says (options, a recipe file, nothing) to a Recipe, and the objects it needs stored.

What is not said is taken from the ROOT's head, so that a plain `sightline index SOURCE ROOT` goes on as before; in a
new ROOT from the defaults. A recipe file states a recipe as a whole: what it leaves out has its default, but for what
has none (backbone, weights, a whole [source] or [indexes]), which is the head's. The file that made the head, given
again, says nothing new. Nothing is written here: the job stores `blobs` when it really runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jobs.recipe_file import RecipeFile, read_recipe
from jobs.recipe_weights import SETTINGS, NamedSettings, Stated, extractor_settings, is_weight_file
from jobs.recipe_whiten import WhitenOptions, stated_whitening, unfitted, whiten_settings
from pipeline.core.errors import UserError
from pipeline.core.metadata import parsed
from pipeline.core.names import public_url
from pipeline.core.specs import Spec, explain, kinds, spec_class, spec_from_json
from pipeline.publish.recipe import Recipe
from pipeline.sources import CarryingSpec, SourceSpec
from pipeline.stages.kinds import check_binary

DEFAULT_INDEXES = ("flat", "ivfpq", "lsh")


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
    max_pixels: int | None = None
    whiten: str | None = None
    whiten_power: float | None = None
    dims: int | None = None
    dtype: str | None = None
    indexes: tuple[str, ...] | None = None
    source_kind: str | None = None
    match: str | None = None
    exclude: tuple[str, ...] | None = None
    metadata: str | None = None
    source_fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Built:
    """A recipe, and the bytes of the artifacts that it names and that may not be stored yet.

    made_by: digest of the recipe file that states it, "" for none.
    """

    recipe: Recipe
    blobs: dict[str, bytes]
    made_by: str = ""


def build_recipe(options: RecipeOptions, *, head: Recipe | None, source_kind: str, made_by: str = "") -> Built:
    """Return the recipe that the options, the head and the defaults make; UserError for what does not go together.

    made_by: digest of the recipe file that made the head, see `Built`.
    """
    blobs: dict[str, bytes] = {}
    file = read_recipe(options.recipe) if options.recipe is not None else None
    again = file is not None and head is not None and file.digest == made_by
    base = _base(file if not again else None, head, WhitenOptions(whiten=options.whiten))
    extractor = {"kind": "pooled", **base.get("extractor", {})}
    before = _same_kind(head.extractor if head is not None else None, extractor["kind"])
    inherited = head is not None and (file is None or again)
    stated = Stated(body=extractor, before=before, inherited=inherited)
    extractor = extractor_settings(_named(options, file if again else None, before), stated, blobs)
    body = {**base, "source": _source(options, base.get("source", {}), source_kind), "extractor": extractor}
    for part, family in (("source", "pipeline.sources"), ("extractor", "pipeline.extract")):
        _begin(family, body[part], getattr(head, part, None))
    # What the head fitted does not fit another extractor's descriptors.
    changed = inherited and not _same_extractor(extractor, head)
    whiten = WhitenOptions(whiten=options.whiten, power=options.whiten_power, dims=options.dims)
    body["whiten"] = _left_to_fit(
        whiten_settings(whiten, base.get("whiten"), blobs, new=not inherited), changed=changed
    )
    body["encode"] = _left_to_fit(base.get("encode"), changed=changed)
    if options.dtype is not None:
        body["dtype"] = options.dtype
    body["indexes"] = _indexes(options, base, head)
    recipe = _checked(body)
    check_binary(recipe, head)
    return Built(recipe=recipe, blobs=blobs, made_by=file.digest if file is not None else "")


def stated_source_kind(options: RecipeOptions, head: Recipe | None) -> str | None:
    """Return the kind of source that the options, the recipe file or the head state; None: it is to be detected."""
    if options.source_kind is not None:
        return options.source_kind
    stated = read_recipe(options.recipe).body.get("source", {}) if options.recipe is not None else {}
    kind = stated.get("kind")
    if kind is not None:
        return str(kind)
    return head.source.kind if head is not None else None


def adopt(recipe: Recipe, head: Recipe | None) -> Recipe:
    """Take over what was fitted for the head, when it was fitted from the same: fitting anew is a new recipe.

    A codebook depends on the extractor and its own settings, a whitening on both of them too; on nothing else.
    """
    if head is None or recipe.extractor.fingerprint != head.extractor.fingerprint:
        return recipe
    stated, known = recipe.declared, head.declared
    update: dict[str, Any] = {}
    if recipe.encode is not None and recipe.encode.artifact is None and stated.encode == known.encode:
        update["encode"] = head.encode
    if update.get("encode", recipe.encode) != head.encode:
        return recipe
    if recipe.whiten is not None and recipe.whiten.artifact is None and stated.whiten == known.whiten:
        update["whiten"] = head.whiten
    return recipe.model_copy(update=update)


def fit_again(recipe: Recipe) -> Recipe:
    """Return the recipe with its codebook and whitening still to be fitted; UserError when it fits neither."""
    fits = [part for part in (recipe.encode, recipe.whiten) if part is not None and part.method != "file"]
    if not fits:
        raise UserError(
            "--refit", "has nothing to fit: the recipe has neither codebook nor PCA whitening", "leave it out"
        )
    update = {name: getattr(recipe.declared, name) for name in ("encode", "whiten")}
    return recipe.model_copy(update=update)


def _base(file: RecipeFile | None, head: Recipe | None, whiten: WhitenOptions) -> dict[str, Any]:
    """Return what the options change: the recipe file with what it leaves to the head, or the head, or nothing."""
    known: dict[str, Any] = head.model_dump(mode="json") if head is not None else {}
    if file is None:
        return known
    stated: dict[str, Any] = {part: known[part] for part in ("source", "indexes") if part in known}
    stated.update(file.body)
    stated["whiten"] = stated_whitening(stated.get("whiten"), head.whiten if head is not None else None, whiten)
    return stated


def _named(options: RecipeOptions, again: RecipeFile | None, before: Spec | None) -> NamedSettings:
    """Return what is said of the extractor. A file of weights that a recipe given again names may hold others now."""
    weights = options.weights
    if weights is None and options.model is None and again is not None:
        stated = again.body.get("extractor", {}).get("weights")
        known = getattr(before, "origin", "")
        if isinstance(stated, str) and is_weight_file(stated) and Path(public_url(stated)).name == known:
            weights = stated
    given = {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    return NamedSettings(model=options.model, backbone=options.backbone, weights=weights, settings=given)


def _left_to_fit(body: dict[str, Any] | None, *, changed: bool) -> dict[str, Any] | None:
    """Return the settings of a fit without its result, where that was fitted from another extractor's descriptors."""
    if body is None or not changed or body.get("method") == "file":
        return body
    return unfitted(body)


def _checked(body: dict[str, Any]) -> Recipe:
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
    return recipe


def _source(options: RecipeOptions, base: dict[str, Any], kind: str) -> dict[str, Any]:
    body: dict[str, Any] = {**base, "kind": kind}
    if base.get("kind", kind) != kind:
        # Settings of another kind mean nothing here, but for those that kinds share.
        shared = {*SourceSpec.model_fields, *CarryingSpec.model_fields} & {
            *spec_class("pipeline.sources", kind).model_fields
        }
        body = {"kind": kind, **{name: value for name, value in base.items() if name in shared}}
    if options.match is not None:
        body["match"] = options.match
    if options.exclude is not None:
        body["exclude"] = [glob for glob in options.exclude if glob]
    if options.metadata is not None:
        body["metadata"] = parsed(options.metadata)
    if body.get("metadata") and not issubclass(spec_class("pipeline.sources", kind), CarryingSpec):
        raise UserError("metadata", f"is not carried by {kind} sources", "tar, parquet and arrow ones do")
    return {**body, **options.source_fields}


def _indexes(options: RecipeOptions, base: dict[str, Any], head: Recipe | None) -> list[dict[str, Any]]:
    known = {spec["kind"]: spec for spec in base.get("indexes", [])}
    names = options.indexes if options.indexes is not None else tuple(known) or DEFAULT_INDEXES
    unknown = [name for name in names if name not in kinds("pipeline.index")]
    if unknown:
        raise UserError(f"--indexes {unknown[0]}", "is not known", f"choose from {', '.join(kinds('pipeline.index'))}")
    if set(names) == set(known):
        # Their order means nothing: the same kinds in another one are no other recipe.
        names = tuple(known)
    before = {spec.kind: spec for spec in (head.indexes if head is not None else ())}
    stated = [dict(known.get(name, {"kind": name})) for name in dict.fromkeys(names)]
    return [_begin("pipeline.index", body, before.get(body["kind"])) for body in stated]


def _same_extractor(body: dict[str, Any], head: Recipe | None) -> bool:
    return head is not None and spec_from_json("pipeline.extract", body).fingerprint == head.extractor.fingerprint


def _same_kind(before: Spec | None, kind: str) -> Spec | None:
    return before if before is not None and before.kind == kind else None


def _begin(family: str, body: dict[str, Any], before: Spec | None) -> dict[str, Any]:
    """Complete settings by those that a new recipe starts with; of a kind that the head has, by the head's."""
    initial = spec_class(family, body["kind"]).initial
    same = _same_kind(before, body["kind"])
    inherited = same.to_json() if same is not None else initial
    for name in initial:
        if name in inherited:
            body.setdefault(name, inherited[name])
    return body
