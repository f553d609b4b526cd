"""Mutants of a module: the operators of cosmic-ray that say something about this code, and three of our own.

Left out are those whose mutants are mostly equivalent or absurd here: identity in place of equality, other arithmetic
than the opposite one, variables in place of each other, decorators taken away.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator
from parso.python.tree import Keyword

_COMPARISONS = (
    *("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is", "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE"),
    *("GtE_Gt", "GtE_Lt"),
)
_ARITHMETIC = (
    *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Add", "Pow_Mul", "BitOr_BitAnd"),
    *("BitAnd_BitOr", "BitXor_BitAnd", "LShift_RShift", "RShift_LShift"),
)
_OTHERS = (
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer"),
    *("ZeroIterationForLoop", "ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_Delete_USub"),
)

AUGMENTED = ("+=", "-=", "*=", "/=", "//=", "%=", "|=", "&=", "^=", "<<=", ">>=")


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change of a module. line: where; before, after: that line; source: of the whole module."""

    module: str
    operator: str
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.operator}\n    - {self.before}\n    + {self.after}"


class _Ours(Operator):  # type: ignore[misc]  # it has no types
    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class RemoveStatement(_Ours):
    """A call whose result nobody uses, a raise, a deletion or an augmented assignment is left out."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "simple_stmt" and self._removable(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        old = node.children[0]
        node.children[0] = Keyword("pass", old.start_pos, old.get_first_leaf().prefix)
        return node

    @staticmethod
    def _removable(statement: Any) -> bool:
        if statement.type in ("raise_stmt", "del_stmt"):
            return True
        if statement.type == "expr_stmt":
            # parso has augmented operators as operators, annotations as nodes.
            return str(getattr(statement.children[1], "value", "")) in AUGMENTED
        return bool(statement.type == "atom_expr" and statement.children[-1].type == "trailer")


class SwapMembership(_Ours):
    """`in` becomes `not in`, and the other way round."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "comparison":
            for child in node.children[1::2]:
                if child.get_code(include_prefix=False) in ("in", "not in"):
                    yield child.start_pos, child.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        places = [i for i, c in enumerate(node.children) if c.get_code(include_prefix=False) in ("in", "not in")]
        old = node.children[places[index]]
        word = "in" if old.get_code(include_prefix=False) == "not in" else "not in"
        node.children[places[index]] = Keyword(word, old.start_pos, old.get_first_leaf().prefix)
        return node


class NoneReturned(_Ours):
    """A result is left out."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "return_stmt" and node.children[1].get_code().strip() not in ("None", "True", "False"):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        old = node.children[1]
        node.children[1] = Keyword("None", old.start_pos, old.get_first_leaf().prefix)
        return node


def operators() -> dict[str, Operator]:
    """Every operator that is used, by name."""
    names = [f"ReplaceComparisonOperator_{name}" for name in _COMPARISONS]
    names += [f"ReplaceBinaryOperator_{name}" for name in _ARITHMETIC]
    found = {name: get_operator(f"core/{name}")() for name in (*names, *_OTHERS)}
    return {**found, **{kind.__name__: kind() for kind in (RemoveStatement, SwapMembership, NoneReturned)}}


def mutants(path: Path) -> list[Mutant]:
    """Return every mutant of a module that differs from it, in the order of its lines."""
    logging.getLogger("parso").setLevel(logging.WARNING)
    source = path.read_text()
    found: dict[str, Mutant] = {}
    for name, operator in operators().items():
        count = sum(len(list(operator.mutation_positions(node))) for node in ast_nodes(get_ast(source)))
        for number in range(count):
            try:
                changed = mutate_code(source, operator, number)
            except AttributeError:
                continue  # cosmic-ray replaces names of exceptions, and trips over one that has a dot.
            if changed is None or changed == source or not _of_code(source, changed):
                continue
            line = _line(source, changed)
            found.setdefault(changed, _mutant(path, name, line, source, changed))
    return sorted(found.values(), key=lambda mutant: (mutant.line, mutant.operator, mutant.after))


def _mutant(path: Path, operator: str, line: int, source: str, changed: str) -> Mutant:
    before, after = ((text.splitlines()[line - 1 : line] or [""])[0].strip() for text in (source, changed))
    return Mutant(module=str(path), operator=operator, line=line, before=before, after=after, source=changed)


def _line(source: str, changed: str) -> int:
    pairs = zip(source.splitlines(), changed.splitlines(), strict=False)
    return next((number for number, (old, new) in enumerate(pairs, start=1) if old != new), 1)


def _of_code(source: str, changed: str) -> bool:
    """Tell whether a change compiles, and is no annotation, which is never read, nor a `*` between parameters."""
    try:
        trees = [ast.parse(text) for text in (source, changed)]
    except SyntaxError:
        return False
    if len({_positional(tree) for tree in trees}) > 1:
        return False
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                node.returns = None
                for argument in (*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs):
                    argument.annotation = None
            elif isinstance(node, ast.ClassDef):
                # Frozen, and by keyword alone: mypy sees to that.
                node.decorator_list = []
            elif isinstance(node, ast.AnnAssign):
                node.annotation = ast.Name("x")
    return ast.dump(trees[0]) != ast.dump(trees[1])


def _positional(tree: ast.AST) -> int:
    return sum(len(node.args.posonlyargs) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
