"""What the guards of an export say about the lengths that a module works for."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from llmc.errors import CaptureError

LENGTHS = range(1, 8193)
"""Lengths that guards are tried on."""

MOST_APART = 8
"""So many lengths can be looked at one by one."""

OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.USub: operator.neg, ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt,
    ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip


@dataclass(frozen=True)
class Lengths:
    """What the module's own code says of the length of a sequence: the longest it allows, and those it treats in their own way.

    torch itself sets lengths apart that happen to be the size of something else, so `apart` is to be looked at, not refused.
    conditions: what was traced is true for the lengths that meet them only.
    """

    longest: int | None
    apart: tuple[int, ...]
    conditions: tuple[str, ...]

    def check(self, name: str) -> None:
        """Raise CaptureError if the code takes another way for many lengths."""
        if self.conditions:
            raise CaptureError(
                f"{name} computes different things for sequences of different lengths S: what was traced holds where "
                f"{' and '.join(self.conditions)}; make its code the same for every length"
            )


def lengths_of(exported: torch.export.ExportedProgram, name: str) -> Lengths:
    """What the guards of an export over `input_ids [1, S]` say. Raises CaptureError if the module works for one length only."""
    longest: int | None = None
    apart: set[int] = set()
    conditions = []
    for guard in getattr(exported, "_guards_code", ()):
        said = re.sub(r"L\['input_ids'\]\.size\(\)\[1\]", "S", guard)
        try:
            tree = ast.parse(said, mode="eval").body
            failing = [length for length in LENGTHS if not evaluate(tree, length)]
        except (SyntaxError, KeyError, TypeError, ZeroDivisionError):  # a guard of a form that is not known
            conditions.append(said)
            continue
        if len(failing) == len(LENGTHS) - 1:
            (only,) = set(LENGTHS) - set(failing)
            raise CaptureError(f"{name} works for sequences of {only} tokens only: its code makes a number of the length; "
                               "take sizes from the input, and let them be sizes")  # fmt: skip
        if failing and failing == list(range(failing[0], LENGTHS.stop)):
            longest = min(longest or LENGTHS.stop, failing[0] - 1)
        elif len(failing) <= MOST_APART:
            apart.update(failing)
        else:
            conditions.append(said)
    return Lengths(longest, tuple(sorted(apart)), tuple(conditions))


def evaluate(tree: ast.expr, length: int) -> Any:
    """The value of a guard's expression in S. Raises KeyError or TypeError for anything but arithmetic and comparisons."""
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return tree.value
    if isinstance(tree, ast.Name) and tree.id == "S":
        return length
    if isinstance(tree, ast.BinOp):
        return OPERATORS[type(tree.op)](evaluate(tree.left, length), evaluate(tree.right, length))
    if isinstance(tree, ast.UnaryOp):
        return OPERATORS[type(tree.op)](evaluate(tree.operand, length))
    if isinstance(tree, ast.Compare) and len(tree.ops) == 1:
        return OPERATORS[type(tree.ops[0])](evaluate(tree.left, length), evaluate(tree.comparators[0], length))
    raise TypeError(f"{ast.dump(tree)} is no arithmetic")
