"""The shape of the code, enforced: floors, siblings, who may import what, and how long things may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")])

FLOORS = {
    "pipeline.core": 0,
    "pipeline.decode": 1,
    "pipeline.features": 1,
    "pipeline.whiten": 1,
    "pipeline.table": 1,
    "pipeline.rejects": 1,
    "pipeline.geometry": 1,
    "pipeline.checkpoints": 1,
    "pipeline.sources": 2,
    "pipeline.extract": 2,
    "pipeline.index": 2,
    "pipeline.publish": 2,
    "pipeline.stages": 3,
    "pipeline.run": 3,
    "pipeline.search": 3,
    "pipeline.evaluate": 4,
    "pipeline.train": 4,
    "pipeline.serve": 4,
    "pipeline.export": 4,
    "jobs": 5,
}
FAMILIES = ("pipeline.sources", "pipeline.extract", "pipeline.index")
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS = 300, 50, 7
TOP_LEVEL = {"pipeline", "jobs", "infra", "tests", "docs", "pyproject.toml", "README.md"} | {
    "LICENSE",
    "CHANGELOG.md",
    "Makefile",
    "constraints.txt",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str | None:
    """The floor entry that a module belongs to."""
    return next((part for part in FLOORS if module == part or module.startswith(part + ".")), None)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_imports_go_down_and_never_to_a_sibling(path: Path) -> None:
    here = part_of(name_of(path))
    if here is None:
        assert name_of(path) == "pipeline", f"{path} lies on no floor"
        return
    for target in imports(path):
        there = part_of(target)
        if there is None or there == here:
            continue
        assert FLOORS[there] < FLOORS[here], f"{named(path)} imports {target}, which is not below it"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_kinds_of_a_family_do_not_import_each_other(path: Path) -> None:
    module = name_of(path)
    family = next((f for f in FAMILIES if module.startswith(f + ".")), None)
    if family is None:
        return
    for target in imports(path):
        if target.startswith(family + ".") and target != module:
            leaf = target.removeprefix(family + ".").split(".")[0]
            shared = leaf.startswith("_") or not (ROOT / family.replace(".", "/") / f"{leaf}.py").exists()
            assert shared, f"{named(path)} imports its sibling {target}"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_ray_and_faiss_are_imported_in_their_places_only(path: Path) -> None:
    roots = {target.split(".")[0] for target in imports(path)}
    assert "ray" not in roots or named(path).startswith("pipeline/run/ray/")
    faiss_may = named(path).startswith("pipeline/index/") or named(path) == "pipeline/features/codebook.py"
    assert "faiss" not in roots or faiss_may


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_nothing_unpickles_or_evaluates(path: Path) -> None:
    roots = {target.split(".")[0] for target in imports(path)}
    assert not roots & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), f"{named(path)} calls {node.func.id}"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE, f"{named(path)} has more than {MAX_FILE} lines"
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{named(path)} does not say what it does"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            # A typer command is its own table of options; every other function obeys.
            command = named(path).startswith("jobs/cli") and bool(ast.get_docstring(node))
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            count = (
                len(node.args.args)
                + len(node.args.kwonlyargs)
                - (node.args.args[:1] != [] and node.args.args[0].arg in ("self", "cls"))
            )
            assert command or length <= MAX_FUNCTION, f"{named(path)}: {node.name} has {length} lines"
            assert command or count <= MAX_PARAMETERS, f"{named(path)}: {node.name} has {count} parameters"


def test_the_top_level_holds_what_it_should() -> None:
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith(".")}
    assert found - {"demo", "sightline.egg-info", "build"} <= TOP_LEVEL
