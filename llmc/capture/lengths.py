"""What the guards of an export say about the lengths that a module works for."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmc.errors import CaptureError

MOST_POSITIONS = 2**20
"""Guards are tried on every length up to this one; no context is longer."""

LENGTHS = np.arange(1, MOST_POSITIONS + 1)

MOST_APART = 8
"""So many lengths can be looked at one by one, if they are short enough to run."""

LONGEST_RUN = 2048
"""Tokens that the module is run on to look at a length; what is said of a longer one ends the context before it."""

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
    if not hasattr(exported, "_guards_code"):
        raise CaptureError(f"torch {torch.__version__} does not tell the guards of an export; install one that llmc names")
    for guard in exported._guards_code:
        said = re.sub(r"L(\['\w+'\])+\.size\(\)\[1\]", "S", guard)
        try:
            holds = np.broadcast_to(evaluate(ast.parse(said, mode="eval").body, LENGTHS), LENGTHS.shape)
        except (SyntaxError, KeyError, TypeError, ArithmeticError):  # a guard of a form that is not known
            conditions.append(said)
            continue
        failing = LENGTHS[~holds]
        if len(failing) == len(LENGTHS) - 1:
            (only,) = LENGTHS[holds]
            raise CaptureError(f"{name} works for sequences of {only} tokens only: its code makes a number of the length; "
                               "take sizes from the input, and let them be sizes")  # fmt: skip
        if len(failing) > MOST_APART and not holds[failing[0] - 1 :].any():
            longest = min(longest or MOST_POSITIONS, int(failing[0]) - 1)
        elif len(failing) <= MOST_APART:
            apart.update(map(int, failing))
        else:
            conditions.append(said)
    longest = min([*([longest] if longest else []), *(length - 1 for length in apart if length > LONGEST_RUN)], default=None)
    return Lengths(longest, tuple(sorted(length for length in apart if length <= LONGEST_RUN)), tuple(conditions))


def evaluate(tree: ast.expr, length: Any) -> Any:
    """The value of a guard's expression in S, for many lengths at once.

    Raises KeyError or TypeError for anything but arithmetic and comparisons.
    """
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
