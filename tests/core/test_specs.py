from __future__ import annotations

import pytest

from pipeline.core.errors import UserError
from pipeline.core.specs import canonical, digest_of, kinds, spec_class, spec_from_json
from pipeline.sources.folder import Spec as FolderSpec


def test_the_canonical_form_is_one_form() -> None:
    assert canonical({"b": 1, "a": [1.5, "é"]}) == canonical({"a": [1.5, "é"], "b": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))


def test_kinds_are_the_modules_of_a_family_without_helpers() -> None:
    assert kinds("pipeline.sources") == ["arrow", "filelist", "folder", "kapture", "npy", "parquet", "tar"]
    assert all(not name.startswith("_") for family in ("extract", "index") for name in kinds(f"pipeline.{family}"))


@pytest.mark.parametrize("kind", ["os", "_files", "../folder", "folder.Spec", "", "pipeline.sources.folder"])
def test_a_kind_that_is_no_module_of_the_family_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match="not known"):
        spec_class("pipeline.sources", kind)


def test_unknown_and_wrong_fields_are_named() -> None:
    with pytest.raises(UserError, match="colour"):
        spec_from_json("pipeline.sources", {"kind": "folder", "colour": "red"})
    with pytest.raises(UserError, match=r"nlist.*got 'many'"):
        spec_from_json("pipeline.index", {"kind": "ivfpq", "nlist": "many"})
    with pytest.raises(UserError, match="no 'kind'"):
        spec_from_json("pipeline.index", {})


def test_a_field_left_at_its_default_changes_no_fingerprint() -> None:
    assert FolderSpec(match="").fingerprint == FolderSpec().fingerprint
    assert FolderSpec(match="*.png").fingerprint != FolderSpec().fingerprint
