"""What an attention requires of its score expressions."""

from __future__ import annotations

import torch
from torch import Tensor

from llmc.ir.score import FUNCTIONS, VARIABLES, ScoreContext, ScoreExpr

SAMPLE = torch.tensor(sorted({*range(34), *(2**i + j for i in range(6, 21) for j in (-1, 0, 1))}))
"""Positions at which conditions are tried: the first, and those about powers of two."""


def score_problem(expr: ScoreExpr, heads: int) -> str | None:
    """Why an expression cannot be the score of so many heads, or None."""
    problem = _malformed(expr, heads)
    if problem is not None:
        return problem
    value = _tried(expr, heads, torch.zeros(heads, 1))
    if isinstance(value, str):
        return value
    return f"the score must be a number, not a condition: {expr}" if value.dtype == torch.bool else None


def admits_problem(expr: ScoreExpr, heads: int) -> str | None:
    """Why an expression cannot say which keys are admitted, or None. Each query must admit its own key, or some might none."""
    problem = _malformed(expr, heads)
    if problem is not None:
        return problem
    if _mentions(expr, "score"):
        return f"which keys are admitted must not depend on the score: {expr}"
    value = _tried(expr, heads, None)
    if isinstance(value, str):
        return value
    if value.dtype != torch.bool:
        return f"what admits keys must be a condition, not a number: {expr}"
    value = value.expand(heads, len(SAMPLE))
    if not value.all():
        head, index = (int(i) for i in (~value).nonzero()[0])
        return f"position {int(SAMPLE[index])} does not admit itself in head {head}, so that it might attend to nothing: {expr}"
    return None


def _tried(expr: ScoreExpr, heads: int, score: Tensor | None) -> Tensor | str:
    """The values where query and key are the same, `[heads, positions]` or what broadcasts to it; or why there are none."""
    positions = SAMPLE.view(1, -1)
    try:
        return expr.evaluate(ScoreContext(score, torch.arange(heads).view(-1, 1), positions, positions))
    except Exception as error:  # torch refuses what makes no sense, each function in its own way
        return f"it cannot be evaluated: {expr}: {error}"


def _malformed(expr: ScoreExpr, heads: int) -> str | None:
    if expr.kind == "per_head":
        count = len(expr.value) if isinstance(expr.value, tuple) else 0
        return None if count == heads else f"a number for each of {count} heads, but there are {heads}"
    if expr.kind == "const":
        return None if isinstance(expr.value, bool | int | float) else f"{expr.value!r} is no number"
    if expr.kind not in VARIABLES and (expr.kind not in FUNCTIONS or len(expr.args) != FUNCTIONS[expr.kind][2]):
        return f"score expressions have no function '{expr.kind}' of {len(expr.args)} arguments"
    return next((problem for arg in expr.args if (problem := _malformed(arg, heads)) is not None), None)


def _mentions(expr: ScoreExpr, kind: str) -> bool:
    return expr.kind == kind or any(_mentions(arg, kind) for arg in expr.args)
