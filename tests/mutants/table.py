"""Which tests are run against the mutants of a module: those that are about it first, then what covers it from afar."""

from __future__ import annotations

_LIFE = ("tests/integration/test_lives_in_trouble.py", "tests/integration/test_deletions.py")
_PUBLISH: tuple[str, ...] = (
    "tests/publish/test_listing.py",
    "tests/publish/test_manifests.py",
    "tests/publish/test_packing.py",
    "tests/publish/test_plan.py",
    "tests/publish/test_renew.py",
    "tests/publish/test_rebase.py",
)
_PUBLISH += ("tests/stages/test_compact.py", "tests/stages/test_merge.py")

MODULES: dict[str, tuple[str, ...]] = {
    "pipeline/core/ranges.py": ("tests/core/test_ranges.py", "tests/core/test_spans.py"),
    "pipeline/core/retry.py": ("tests/core/test_retry.py",),
    "pipeline/core/local.py": ("tests/core/test_storage.py", "tests/core/test_local.py", "tests/core/test_walk.py"),
    "pipeline/core/s3.py": ("tests/core/test_s3_direct.py", "tests/core/test_s3.py", "tests/core/test_storage.py"),
    "pipeline/core/s3_direct.py": ("tests/core/test_s3_direct.py",),
    "pipeline/stages/commit.py": ("tests/stages/test_commit.py", "tests/integration/test_lives_in_trouble.py"),
    "pipeline/stages/merge.py": ("tests/stages/test_merge.py", *_LIFE),
    "pipeline/stages/expire.py": (
        "tests/stages/test_expire.py",
        "tests/integration/test_edits.py",
        "tests/stages/test_expire_left_behind.py",
        "tests/integration/test_corrupt.py",
        "tests/integration/test_lives_in_trouble.py",
    ),
    "pipeline/stages/compact.py": ("tests/stages/test_compact.py", *_LIFE),
    "pipeline/publish/leases.py": ("tests/publish/test_leases.py", "tests/search/test_live_leases.py"),
    "pipeline/publish/catalog.py": (
        "tests/publish/test_catalog_objects.py",
        "tests/publish/test_compatibility.py",
        "tests/publish/test_catalog.py",
        "tests/integration/test_lives_in_trouble.py",
    ),
    "pipeline/publish/failures.py": ("tests/publish/test_failures.py", "tests/integration/test_corrupt.py"),
    "pipeline/publish/listing.py": _PUBLISH,
    "pipeline/publish/lists.py": _PUBLISH,
    "pipeline/publish/manifests.py": _PUBLISH,
    "pipeline/publish/marks.py": ("tests/publish/test_marks.py", "tests/stages/test_expire.py"),
    "pipeline/publish/packing.py": _PUBLISH,
    "pipeline/publish/parts.py": ("tests/publish/test_parts.py", "tests/integration/test_unread.py"),
    "pipeline/publish/plan.py": _PUBLISH,
    "pipeline/publish/rebase.py": ("tests/publish/test_rebase.py", "tests/publish/test_renew.py"),
    "pipeline/publish/recipe.py": (
        "tests/publish/test_recipe.py",
        "tests/test_golden.py",
        "tests/integration/test_recipe_changes.py",
    ),
    "pipeline/publish/removals.py": (
        "tests/publish/test_removals.py",
        "tests/publish/test_plan.py",
        "tests/integration/test_gates.py",
    ),
    "pipeline/publish/renew.py": ("tests/publish/test_renew.py", "tests/integration/test_touched.py"),
    "pipeline/publish/snapshot.py": (
        "tests/publish/test_snapshot.py",
        "tests/publish/test_catalog.py",
        "tests/test_golden.py",
    ),
}
