"""Settings of an extractor that are looked up before a recipe is checked as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.recipe import RecipeOptions, build_recipe
from pipeline.core.errors import UserError


@pytest.mark.parametrize("setting", ["backbone = 3", "weights = 3", "backbone = ['resnet18']", "weights = true"])
def test_a_network_that_is_no_name_is_a_user_error(tmp_path: Path, setting: str) -> None:
    (tmp_path / "r.toml").write_text(f"[extractor]\nkind = 'pooled'\n{setting}\n")
    with pytest.raises(UserError, match=f"{setting.split()[0]}: is no name"):
        build_recipe(RecipeOptions(recipe=str(tmp_path / "r.toml")), head=None, source_kind="folder")
