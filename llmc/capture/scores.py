"""Score expressions as capture meets them: masks folded into scores, tables of buffers, numbers for each position."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from itertools import product
from typing import Any

import torch
from torch import Tensor

from llmc.capture.values import Refusal
from llmc.ir.score import CAUSAL, FALSE, SCORE, TRUE, K, Q, ScoreExpr, apply, const

EXCLUDED = -1e4
"""A score at or below this takes no part in a softmax over scores of usual size; masks are written with -1e4 and below."""


def is_excluded(expr: ScoreExpr) -> bool:
    """Whether an expression is a constant that keeps a key out of the softmax."""
    return expr.kind == "const" and isinstance(expr.value, int | float) and expr.value <= EXCLUDED


def split(expr: ScoreExpr) -> tuple[ScoreExpr, ScoreExpr]:
    """`(score, admits)` of an expression in which excluded keys have scores of minus infinity, or nearly so."""
    if is_excluded(expr):
        return const(0.0), FALSE
    if expr.kind == "where":
        condition, (a, admits_a), (b, admits_b) = expr.args[0], split(expr.args[1]), split(expr.args[2])
        negated = negate(condition)
        admits = apply(
            "logical_and", apply("logical_or", negated, admits_a), apply("logical_or", condition, admits_b)
        )
        if admits_a == FALSE:
            return b, apply("logical_and", negated, admits_b)
        if admits_b == FALSE:
            return a, apply("logical_and", condition, admits_a)
        return (a if a == b else apply("where", condition, a, b)), admits
    if expr.kind in ("add", "sub"):
        (a, admits_a), (b, admits_b) = split(expr.args[0]), split(expr.args[1])
        if expr.kind == "sub" and admits_b != TRUE:
            raise Refusal("a mask is subtracted from the scores")
        admits = apply("logical_and", admits_a, admits_b)
        zero_a, zero_b = is_zero(a), is_zero(b)
        return (a if zero_b else b if zero_a and expr.kind == "add" else apply(expr.kind, a, b)), admits
    if expr.kind in ("maximum", "minimum", "mul", "div"):
        parts = [split(arg) for arg in expr.args]
        if any(admits != TRUE for _, admits in parts):
            raise Refusal(f"a mask inside '{expr.kind}' of scores")
        return expr, TRUE
    return expr, TRUE


def is_zero(expr: ScoreExpr) -> bool:
    return expr.kind == "const" and not isinstance(expr.value, bool) and expr.value == 0


NEGATED = {"le": "gt", "gt": "le", "lt": "ge", "ge": "lt", "eq": "ne", "ne": "eq"}


def negate(condition: ScoreExpr) -> ScoreExpr:
    """The opposite condition, comparisons turned around so that proofs see through it."""
    if condition in (TRUE, FALSE):
        return FALSE if condition == TRUE else TRUE
    if condition.kind in NEGATED:
        return apply(NEGATED[condition.kind], *condition.args)
    if condition.kind == "logical_not":
        return condition.args[0]
    if condition.kind in ("logical_and", "logical_or"):
        return apply("logical_or" if condition.kind == "logical_and" else "logical_and", *map(negate, condition.args))
    return apply("logical_not", condition)


def simplify(expr: ScoreExpr) -> ScoreExpr:
    """Adding nothing goes; comparisons of a 0/1 mask become the mask's condition; conditions of constants are decided."""
    args = tuple(simplify(arg) for arg in expr.args)
    if expr.kind in ("add", "sub") and is_zero(args[1]):
        return args[0]
    if expr.kind == "add" and is_zero(args[0]):
        return args[1]
    if expr.kind in COMPARE:
        left, right = cases(args[0]), cases(args[1])
        if left is not None and right is not None:
            hits = [
                apply("logical_and", a, b)
                for (a, x), (b, y) in product(left, right)
                if COMPARE[expr.kind](x, y)
            ]
            return reduce(lambda a, b: apply("logical_or", a, b), hits, FALSE)
    if expr.kind == "logical_not":
        return negate(args[0])
    if expr.kind == "where" and args[0] in (TRUE, FALSE):
        return args[1] if args[0] == TRUE else args[2]
    if expr.kind == "where" and isinstance(args[1].value, bool) and isinstance(args[2].value, bool):
        return args[0] if args[1].value and not args[2].value else negate(args[0]) if args[2].value else args[1]
    if expr.kind in ("logical_and", "logical_or"):
        return apply(expr.kind, *args)
    return ScoreExpr(expr.kind, args, expr.value)


COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {name: getattr(operator, name) for name in COMPARISONS}
ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {name: getattr(operator, name) for name in ("add", "sub", "mul")}
MOST_CASES = 16


def cases(expr: ScoreExpr) -> list[tuple[ScoreExpr, Any]] | None:
    """The conditions under which an expression made of masks alone has this value or that, or None."""
    if expr.kind == "const":
        return [(TRUE, expr.value)]
    if expr.kind == "where":
        found = []
        for condition, branch in ((expr.args[0], expr.args[1]), (negate(expr.args[0]), expr.args[2])):
            inner = cases(branch)
            if inner is None:
                return None
            found += [(apply("logical_and", condition, c), value) for c, value in inner]
        return found if len(found) <= MOST_CASES else None
    if expr.kind in ARITHMETIC:
        left, right = (cases(arg) for arg in expr.args)
        if left is None or right is None or len(left) * len(right) > MOST_CASES:
            return None
        combine = ARITHMETIC[expr.kind]
        return [(apply("logical_and", a, b), combine(x, y)) for (a, x), (b, y) in product(left, right)]
    return None


def as_condition(expr: ScoreExpr, dtype: str) -> ScoreExpr:
    """An expression used as a condition: numbers count as true unless zero."""
    return simplify(expr if dtype == "bool" else apply("ne", expr, const(0)))


def peel_scale(expr: ScoreExpr) -> tuple[float, ScoreExpr]:
    """`(scale, expr')` where the score is multiplied by one number before anything else is done to it."""
    factors: set[float] = set()

    def visit(e: ScoreExpr) -> ScoreExpr:
        if e.kind in ("mul", "div") and SCORE in e.args:
            other = e.args[1] if e.args[0] == SCORE else e.args[0]
            if other.kind == "const" and (e.kind == "mul" or e.args[0] == SCORE):
                value = float(other.value)  # type: ignore[arg-type]
                factors.add(value if e.kind == "mul" else 1 / value)
                return SCORE
        if e == SCORE:
            factors.add(1.0)
        return ScoreExpr(e.kind, tuple(visit(arg) for arg in e.args), e.value)

    inner = visit(expr)
    return (factors.pop(), inner) if len(factors) == 1 and 1.0 not in factors else (1.0, expr)


def causal_table(values: Tensor) -> ScoreExpr:
    """The expression of a square table over (query, key), after its values were looked at.

    Raises Refusal unless it has one value where the key is not after the query and one where it is.
    """
    size = min(values.shape)
    values = values[:size, :size]
    earlier = torch.ones(size, size, dtype=torch.bool).tril()
    inside, outside = values[earlier].unique(), values[~earlier].unique()
    if len(inside) != 1 or len(outside) != 1:
        raise Refusal("a table over pairs of positions whose values are not those of a causal mask")
    return simplify(apply("where", CAUSAL, const(plain(inside)), const(plain(outside))))


def plain(value: Tensor) -> float | int | bool:
    """The element of a tensor as a number."""
    number = value.item()
    return -math.inf if number == -math.inf else number


def move_to_keys(expr: ScoreExpr) -> ScoreExpr:
    """The expression of a position, of the key instead of the query."""
    if expr == Q:
        return K
    return ScoreExpr(expr.kind, tuple(move_to_keys(arg) for arg in expr.args), expr.value)
