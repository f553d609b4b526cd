"""The whitening of a recipe, from options, recipe file and head; see jobs/recipe.py.

A whitening that comes from a file is never fitted, and never replaced by one that is: it goes on, or is given again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.recipe_weights import stage_artifact
from jobs.weights import local_copy
from pipeline.checkpoints import read_whitening_file
from pipeline.core.errors import UserError
from pipeline.core.names import public_url
from pipeline.whiten import Whitening, WhitenSpec, from_components


@dataclass(frozen=True, kw_only=True)
class WhitenOptions:
    """What the command line says of whitening; None is silence."""

    whiten: str | None = None
    power: float | None = None
    dims: int | None = None

    @property
    def numbers(self) -> dict[str, Any]:
        """The settings that were given a value, by the names they have in a recipe."""
        given = {"power": self.power, "dims": self.dims}
        return {name: value for name, value in given.items() if value is not None}


def whiten_settings(
    options: WhitenOptions, base: dict[str, Any] | None, blobs: dict[str, bytes], *, new: bool
) -> dict[str, Any] | None:
    """Return the whitening as JSON, None for none: as in `base` but for what was named.

    A file's whitening is added to `blobs`. UserError where a setting of a file's whitening changes without the file,
    and for settings of a whitening that the head does not have: only in a `new` recipe do they mean one.
    """
    if options.whiten == "none":
        return None
    if options.whiten is None and not options.numbers:
        return base
    if options.whiten is None and base is None and not new:
        given = "--dims" if options.dims is not None else "--whiten-power"
        raise UserError(given, "is a setting of whitening, which this recipe does not have", "add --whiten pca or FILE")
    body = {**unfitted(base or {}), **options.numbers}
    if options.whiten is None and base is not None and base.get("method") == "file":
        _check_unchanged(options, base)
        return base
    if options.whiten is None or options.whiten == "pca":
        return {**body, "method": "pca"}
    spec = WhitenSpec()
    whitening = whitening_from(
        options.whiten, power=float(body.get("power", spec.power)), dims=body.get("dims", spec.dims)
    )
    return {**body, "method": "file", "artifact": stage_artifact(whitening.to_bytes(), "whitening.safetensors", blobs)}


def stated_whitening(
    stated: dict[str, Any] | None, head: WhitenSpec | None, options: WhitenOptions
) -> dict[str, Any] | None:
    """Return the whitening that a recipe file states. One from a file that it does not name is the head's.

    UserError when the head has no such whitening either.
    """
    if stated is None or stated.get("method") != "file" or "artifact" in stated or options.whiten is not None:
        return stated
    if head is not None and head.method == "file" and head.artifact is not None:
        known = head.model_dump(mode="json")
        if all(known.get(name) == value for name, value in stated.items()):
            return known
    raise UserError("recipe", "whitens by a file that it does not name", "give it with --whiten FILE, or --whiten none")


def unfitted(body: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a fit without what came of it."""
    return {name: value for name, value in body.items() if name not in ("artifact", "kind")}


def _check_unchanged(options: WhitenOptions, base: dict[str, Any]) -> None:
    options_of = {"dims": "--dims", "power": "--whiten-power"}
    for name, value in options.numbers.items():
        if base.get(name) != value:
            raise UserError(
                f"{options_of[name]} {value:g}",
                f"changes the whitening, which was read from a file ({name} {base.get(name)})",
                "give the file again with --whiten FILE, or fit one with --whiten pca",
            )


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
