"""Specs: the output-changing settings of a plug-in, their JSON form and their fingerprint; and how kinds are found.

A plug point is a module name. `pipeline/extract/foo.py` defining a class `Spec` is the whole registration of the
kind `foo` of the family `pipeline.extract`. A kind is looked up among the modules that the package really has, so a
manifest can never name an arbitrary import path. Module names that begin with an underscore are not kinds.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from pipeline.core.errors import UserError
from pipeline.core.types import Artifact

NOT_IN_FINGERPRINT: dict[str, JsonValue] = {"fingerprint": False}
"""Pass as `Field(json_schema_extra=NOT_IN_FINGERPRINT)` for a field that only labels and changes no output."""


class Spec(BaseModel):
    """Base of every plug-in's settings. Fields are output-changing; a default, once released, never changes."""

    # A fingerprint is taken over JSON, which has no NaN and no infinity.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    family: ClassVar[str] = ""
    initial: ClassVar[dict[str, JsonValue]] = {}
    """Settings that a new recipe starts with where they are not the defaults: a default never changes, and what an
    existing recipe does not state keeps its meaning."""

    @property
    def kind(self) -> str:
        """The module's name, which is the kind's name."""
        return type(self).__module__.rsplit(".", 1)[-1]

    def to_json(self) -> dict[str, Any]:
        """Return {"kind": ..., every field that is not at its default}."""
        return {"kind": self.kind, **self.model_dump(mode="json", exclude_defaults=True)}

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over the kind and every field that is not at its default; weights count by their digest."""
        return digest_of({"kind": self.kind, **fingerprint_payload(self)})


def canonical(value: Any) -> bytes:
    """Return the one JSON encoding of a value: sorted keys, no spaces, UTF-8, finite numbers only."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest_of(value: Any) -> str:
    """Return the sha256 (hex) of the canonical JSON of a value."""
    return hashlib.sha256(canonical(value)).hexdigest()


def fingerprint_payload(model: BaseModel) -> dict[str, Any]:
    """Return the JSON that a model's fingerprint is taken over: set fields only, artifacts by their digest."""
    payload: dict[str, Any] = {}
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("fingerprint") is False:
            continue
        if not info.is_required() and value == info.get_default(call_default_factory=True):
            continue
        payload[name] = _plain(value)
    return payload


def _plain(value: Any) -> Any:
    if isinstance(value, Artifact):
        return {"sha256": value.sha256}
    if isinstance(value, Spec):
        return {"kind": value.kind, **fingerprint_payload(value)}
    if isinstance(value, BaseModel):
        return fingerprint_payload(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def kinds(family: str) -> list[str]:
    """Return the names of the kinds of a family (a package such as "pipeline.extract"), without importing them."""
    package = importlib.import_module(family)
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def spec_class(family: str, kind: str) -> type[Spec]:
    """Return the Spec class of one kind, importing that module only; an unknown kind is a UserError."""
    known = kinds(family)
    if kind not in known:
        raise UserError(
            f"{family.rsplit('.', 1)[-1]} kind {kind!r}", "is not known", f"choose one of {', '.join(known)}"
        )
    found: type[Spec] = importlib.import_module(f"{family}.{kind}").Spec
    return found


def spec_from_json(family: str, data: dict[str, Any]) -> Spec:
    """Rebuild a Spec from its JSON form; unknown kinds and fields are refused by name."""
    fields = dict(data)
    kind = fields.pop("kind", None)
    if not isinstance(kind, str):
        raise UserError(f"{family} settings", "have no 'kind'", f"choose one of {', '.join(kinds(family))}")
    cls = spec_class(family, kind)
    try:
        return cls.model_validate(fields)
    except ValidationError as error:
        raise UserError(f"{family.rsplit('.', 1)[-1]} {kind}", explain(error), "correct the setting") from None


def explain(error: ValidationError) -> str:
    """Return a pydantic error as one line: each wrong field, what is wrong, what was given."""
    parts = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"]) or "settings"
        # What is wrong of several settings together names them; all settings of the kind say nothing more.
        got = f" (got {item['input']!r:.80})" if item["type"] != "missing" and item["loc"] else ""
        parts.append(f"{where}: {item['msg'].removeprefix('Value error, ')}{got}")
    return ", ".join(parts)
