"""Recipe files: TOML by location, or by the name of one that comes with Sightline.

Only their form is checked here; what they state is, where the recipe is made of it (jobs/recipe.py).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import NotFoundError, UserError
from pipeline.core.names import public_url
from pipeline.core.specs import digest_of
from pipeline.core.storage import split_location

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class RecipeFile:
    """What a recipe file states. digest: of its settings; comments and layout do not count."""

    body: Mapping[str, Any]
    digest: str


def read_recipe(name: str) -> RecipeFile:
    """Read --recipe NAME or FILE; UserError when there is none of that name, or when it is not TOML."""
    named = RECIPES / f"{name}.toml"
    data = named.read_bytes() if "/" not in name and named.is_file() else _read(name)
    try:
        # Editors on Windows begin a file with a byte order mark.
        body = tomllib.loads(data.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--recipe {public_url(name)}", f"is not TOML ({error})", "correct the file") from None
    # Dates are the only values of TOML that are not JSON; no setting takes one.
    digest = digest_of(_plain(body))
    indexes = body.get("indexes")
    if isinstance(indexes, dict):
        body["indexes"] = [{"kind": kind, **_table(name, f"indexes.{kind}", s)} for kind, s in indexes.items()]
    for part in ("source", "extractor", "encode", "whiten"):
        if part in body:
            body[part] = dict(_table(name, part, body[part]))
    return RecipeFile(body=body, digest=digest)


def _read(name: str) -> bytes:
    store, file = split_location(name)
    try:
        return store.read(file)
    except NotFoundError:
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
        raise UserError(f"--recipe {public_url(name)}", "is no file and no named recipe", f"named: {known}") from None


def _table(name: str, part: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"--recipe {public_url(name)}", f"has a {part} that is no table", f"write [{part}]")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    # TOML also has infinite numbers, which canonical JSON does not.
    return value if isinstance(value, str | int) else str(value)
