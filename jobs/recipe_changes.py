"""The difference between a run's recipe and the head's, setting by setting, and what it means for the descriptors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.core.specs import Spec, fingerprint_payload
from pipeline.core.types import Artifact
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Snapshot

FITTED_AGAIN = "fitted again"
"""What becomes of a fit whose input has changed."""
NONE = "none"
"""What is written where a setting, or a whole part, is absent."""
DIGITS = 12
"""Of a digest, as far as it is shown."""
METADATA = "source.metadata"
PARTS = ("source", "extractor", "encode", "whiten")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One setting that differs, by its dotted name; values as text, "none" where there is none.

    extracts: whether descriptors depend on it; those of index kinds, and labels, do not.
    """

    setting: str
    before: str
    after: str
    extracts: bool = True

    def __str__(self) -> str:
        return f"recipe: {self.setting} {self.before} -> {self.after}"


def changes(before: Recipe | None, after: Recipe) -> tuple[Change, ...]:
    """Return what differs, in the order of the recipe; nothing for the first recipe of a ROOT.

    Settings are compared with their defaults, so that naming a default is no change; of fits only the digest counts.
    """
    return tuple(_changes(before, after)) if before is not None else ()


def extracted_again(head: Snapshot | None, recipe: Recipe) -> int:
    """Return how many images of the head are extracted again because the recipe makes other descriptors."""
    # Other metadata of the same descriptors is read beside the images; no image is described again for it.
    if head is None or head.recipe.bare.descriptor_id == recipe.bare.descriptor_id:
        return 0
    return head.summary.images


def lines(changed: tuple[Change, ...], again: int) -> list[str]:
    """Return the changes in words, and before the first image is read, what they cost."""
    said = [str(change) for change in changed]
    if again:
        which = ", ".join(change.setting for change in changed if change.extracts) or "recipe"
        verb = "change" if "," in which else "changes"
        selected = ", as far as they are still selected" if any(map(_selects, changed)) else ""
        said.append(f"{which} {verb} the descriptors: all {again} images are extracted again{selected}")
    elif any(change.setting == METADATA for change in changed):
        said.append(
            f"{METADATA} changes no descriptor: the metadata of all images is read again, no image is extracted"
        )
    return said


def as_json(changed: tuple[Change, ...]) -> list[dict[str, Any]]:
    """Return the changes as plain values."""
    return [{"setting": c.setting, "before": c.before, "after": c.after} for c in changed]


def _selects(change: Change) -> bool:
    """Tell whether a setting decides which images of the source are indexed."""
    return change.setting.startswith("source.") and change.setting != METADATA


def _changes(before: Recipe, after: Recipe) -> Iterator[Change]:
    for part in PARTS:
        yield from _part(part, getattr(before, part), getattr(after, part))
    if before.dtype != after.dtype:
        yield Change(setting="dtype", before=before.dtype, after=after.dtype)
    old, new = ({spec.kind: spec for spec in recipe.indexes} for recipe in (before, after))
    if [*old] != [*new]:
        yield Change(setting="indexes", before=_text([*old]), after=_text([*new]), extracts=False)
    for kind in [kind for kind in new if kind in old]:
        yield from _part(f"indexes.{kind}", old[kind], new[kind], extracts=False)


def _part(name: str, before: Spec | None, after: Spec | None, *, extracts: bool = True) -> Iterator[Change]:
    if before is None or after is None:
        if before is not after:
            yield Change(setting=name, before=_summary(before), after=_summary(after), extracts=extracts)
        return
    if before.kind != after.kind:
        yield Change(setting=f"{name}.kind", before=before.kind, after=after.kind, extracts=extracts)
        stated = fingerprint_payload(after)
        for setting in stated:
            old = _value(before, setting) if setting in type(before).model_fields else NONE
            if old != _value(after, setting):
                yield Change(setting=f"{name}.{setting}", before=old, after=_value(after, setting), extracts=extracts)
        return
    for setting in type(after).model_fields:
        old, new = getattr(before, setting), getattr(after, setting)
        if _counts(type(after), setting) and not _equal(old, new):
            value = FITTED_AGAIN if setting == "artifact" and new is None else _value(after, setting)
            yield Change(setting=f"{name}.{setting}", before=_value(before, setting), after=value, extracts=extracts)


def _counts(spec: type[Spec], setting: str) -> bool:
    extra = spec.model_fields[setting].json_schema_extra
    return not (isinstance(extra, dict) and extra.get("fingerprint") is False)


def _equal(before: Any, after: Any) -> bool:
    if isinstance(before, Artifact) and isinstance(after, Artifact):
        return before.sha256 == after.sha256
    return bool(before == after)


def _value(spec: Spec, setting: str) -> str:
    origin = getattr(spec, "origin", "") if setting == "weights" else ""
    return _text(getattr(spec, setting)) + (f" ({origin})" if origin else "")


def _summary(spec: Spec | None) -> str:
    if spec is None:
        return NONE
    stated = {name: getattr(spec, name) for name in fingerprint_payload(spec) if name not in ("method", "artifact")}
    method = getattr(spec, "method", spec.kind)
    return " ".join([method, *(f"{name}={_text(value)}" for name, value in stated.items())])


def _text(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, Artifact):
        return value.sha256[:DIGITS]
    if isinstance(value, list | tuple):
        return ",".join(_text(item) for item in value) or NONE
    if isinstance(value, Mapping):
        return ",".join(f"{name}={_text(item)}" for name, item in value.items()) or NONE
    return f"{value:.15g}" if isinstance(value, float) else str(value) or NONE
