"""Score expressions as capture meets them: masks folded into scores by arithmetic, however they are written."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from itertools import product
from typing import Any

from llmc.capture.values import Refusal
from llmc.ir.score import FALSE, SCORE, TRUE, K, Q, ScoreExpr, apply, const

EXCLUDED = -1e4
"""A score at or below this takes no part in a softmax over scores of usual size; masks are written with -1e4 and below."""

MOST_CASES = 32
Case = tuple[ScoreExpr, ScoreExpr]

NEGATED = {"le": "gt", "gt": "le", "lt": "ge", "ge": "lt", "eq": "ne", "ne": "eq"}
COMPARE: dict[str, Callable[[Any, Any], bool]] = {name: getattr(operator, name) for name in NEGATED}
ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "neg": operator.neg,
    "abs": abs, "maximum": max, "minimum": min, "tanh": math.tanh,
}  # fmt: skip


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


def conjuncts(condition: ScoreExpr) -> list[ScoreExpr]:
    """The conditions that must all hold."""
    if condition.kind != "logical_and":
        return [condition]
    return [part for arg in condition.args for part in conjuncts(arg)]


def both(a: ScoreExpr, b: ScoreExpr) -> ScoreExpr:
    """a and b; false where one denies the other."""
    held = conjuncts(a)
    wanted = [part for part in conjuncts(b) if part not in held]
    if any(negate(part) in held for part in wanted) or negate(b) in held or negate(a) in conjuncts(b):
        return FALSE
    return reduce(lambda x, y: apply("logical_and", x, y), wanted, a)


def either(a: ScoreExpr, b: ScoreExpr) -> ScoreExpr:
    """a or b, where what only one of them asks for is given up if the other asks for its opposite."""
    if negate(a) == b:
        return TRUE
    left, right = conjuncts(a), conjuncts(b)
    only_left, only_right = ([p for p in mine if p not in other] for mine, other in ((left, right), (right, left)))
    if not only_left or not only_right:  # one implies the other
        return a if not only_left else b
    if len(only_left) == len(only_right) == 1 and negate(only_left[0]) == only_right[0]:
        return reduce(both, (part for part in left if part in right), TRUE)
    return apply("logical_or", a, b)


def cases(expr: ScoreExpr) -> list[Case]:
    """An expression as pairs of a condition and what it is there, without any `where`; the conditions exclude each other.

    Raises Refusal if there are too many.
    """
    if expr.kind == "where":
        found = []
        for condition, branch in ((expr.args[0], expr.args[1]), (negate(expr.args[0]), expr.args[2])):
            found += [(both(condition, inner), leaf) for inner, leaf in cases(branch)]
    elif not expr.args or expr.kind in NEGATED or expr.kind.startswith("logical"):
        return [(TRUE, expr)]
    else:
        found = []
        for combination in product(*map(cases, expr.args)):
            condition = reduce(both, (c for c, _ in combination), TRUE)
            found.append((condition, folded(expr.kind, tuple(leaf for _, leaf in combination))))
    found = [case for case in found if case[0] != FALSE]
    if len(found) > MOST_CASES:
        raise Refusal("a mask with too many cases")
    return found


def folded(kind: str, args: tuple[ScoreExpr, ...]) -> ScoreExpr:
    """A function of expressions; of numbers alone it is a number, and adding or multiplying by nothing goes."""
    if kind in ARITHMETIC and all(arg.kind == "const" for arg in args):
        try:
            return const(ARITHMETIC[kind](*(arg.value for arg in args)))
        except (ArithmeticError, ValueError) as error:
            raise Refusal(f"a mask that computes {kind}({', '.join(map(str, args))})") from error
    if kind in ("add", "sub") and is_number(args[1], 0):
        return args[0]
    if kind in ("add", "sub") and args[0].kind in ("add", "sub") and all(map(is_whole_number, (args[1], args[0].args[1]))):
        inner = args[0].args[1] if args[0].kind == kind else folded("neg", args[0].args[1:])
        return folded(kind, (args[0].args[0], folded("add", (inner, args[1]))))
    if kind in ("mul", "div") and is_number(args[1], 1):
        return args[0]
    if kind in ("add", "mul") and is_number(args[0], 0 if kind == "add" else 1):
        return args[1]
    if kind == "mul" and (is_number(args[0], 0) or is_number(args[1], 0)):
        return const(0.0)  # scores are finite: what is masked out this way stays in the softmax with a score of nought
    return ScoreExpr(kind, args)


def is_number(expr: ScoreExpr, value: float) -> bool:
    """Whether an expression is this number everywhere."""
    return expr.kind == "const" and not isinstance(expr.value, bool) and expr.value == value


def is_whole_number(expr: ScoreExpr) -> bool:
    """Whether an expression is a number of type int."""
    return expr.kind == "const" and isinstance(expr.value, int) and not isinstance(expr.value, bool)


def whole(expr: ScoreExpr) -> ScoreExpr | None:
    """The same expression in whole numbers, if floats are all that stands in it for them; else None."""
    if expr.kind == "const":
        return const(int(expr.value)) if float(expr.value).is_integer() else None  # type: ignore[arg-type]
    if expr in (Q, K) or is_condition(expr):
        return expr
    if expr.kind not in ("add", "sub", "mul", "neg", "where") or (expr.kind == "mul" and expr.args[1].kind != "const"):
        return None
    args = [whole(arg) for arg in expr.args]
    return None if None in args else simplify(ScoreExpr(expr.kind, tuple(args)))  # type: ignore[arg-type]


def offset(leaf: ScoreExpr) -> float:
    """The number added to a score by whatever sums and scales; what depends on positions and scores counts as nought."""
    if leaf.kind == "const":
        return float(leaf.value)  # type: ignore[arg-type]
    if leaf.kind in ("add", "sub"):
        left, right = map(offset, leaf.args)
        return left + right if leaf.kind == "add" else left - right
    if leaf.kind in ("maximum", "minimum"):
        return ARITHMETIC[leaf.kind](*map(offset, leaf.args))
    if leaf.kind == "neg":
        return -offset(leaf.args[0])
    if leaf.kind in ("mul", "div") and leaf.args[1].kind == "const":
        factor = float(leaf.args[1].value)  # type: ignore[arg-type]
        return offset(leaf.args[0]) * factor if leaf.kind == "mul" else offset(leaf.args[0]) / factor
    if leaf.kind == "mul" and leaf.args[0].kind == "const":
        return offset(leaf.args[1]) * float(leaf.args[0].value)  # type: ignore[arg-type]
    return 0.0


def split(expr: ScoreExpr) -> tuple[ScoreExpr, ScoreExpr]:
    """`(score, admits)` of an expression in which excluded keys have scores of minus infinity, or nearly so.

    Raises Refusal if no key is ever admitted, or if it depends on the scores which ones are.
    """
    kept = []
    for condition, leaf in cases(expr):
        if math.isnan(offset(leaf)):
            raise Refusal("a mask that makes scores not a number")
        if offset(leaf) > EXCLUDED:
            bounded = leaf.kind == "maximum" and leaf.args[1].kind == "const" and offset(leaf.args[1]) <= EXCLUDED
            kept.append((condition, leaf.args[0] if bounded else leaf))
    if not kept:
        raise Refusal("no key is ever admitted: every score is minus infinity, or nearly so")
    admits = reduce(either, (condition for condition, _ in kept))
    if contains(admits, SCORE):
        raise Refusal("which keys take part depends on the scores themselves")
    score = kept[-1][1]
    for condition, leaf in reversed(kept[:-1]):
        score = leaf if leaf == score else apply("where", condition, leaf, score)
    return score, admits


def contains(expr: ScoreExpr, part: ScoreExpr) -> bool:
    """Whether a part occurs anywhere in an expression."""
    return expr == part or any(contains(arg, part) for arg in expr.args)


def contains_kind(expr: ScoreExpr, kind: str) -> bool:
    """Whether a variable or function of a kind occurs anywhere in an expression."""
    return expr.kind == kind or any(contains_kind(arg, kind) for arg in expr.args)


def simplify(expr: ScoreExpr) -> ScoreExpr:
    """Arithmetic on masks alone becomes one mask; comparisons of a 0/1 mask become its condition; what is known is decided."""
    args = tuple(simplify(arg) for arg in expr.args)
    if expr.kind in COMPARE:
        return _compared(expr.kind, args)
    if expr.kind == "logical_not":
        return negate(args[0])
    if expr.kind == "where":
        return _chosen(*args)
    if expr.kind in ("logical_and", "logical_or"):
        return apply(expr.kind, *args)
    if expr.kind in ARITHMETIC:
        made = folded(expr.kind, args)
        if made.args and any(arg.kind == "where" for arg in args):
            found = cases(made)
            if all(leaf.kind == "const" for _, leaf in found):
                return _from_cases(found)
        return made
    return ScoreExpr(expr.kind, args, expr.value)


def _compared(kind: str, args: tuple[ScoreExpr, ...]) -> ScoreExpr:
    left, right = map(cases, args)
    if any(leaf.kind != "const" for _, leaf in (*left, *right)):
        return ScoreExpr(kind, args)
    return reduce(_or, (both(a, b) for (a, x), (b, y) in product(left, right) if COMPARE[kind](x.value, y.value)), FALSE)


def _chosen(condition: ScoreExpr, a: ScoreExpr, b: ScoreExpr) -> ScoreExpr:
    known = condition.value if condition.kind == "const" else None
    if a == b or known is not None:
        return b if known is False else a
    if is_condition(a) and is_condition(b):
        return _or(both(condition, a), both(negate(condition), b))
    return ScoreExpr("where", (condition, a, b))


def _or(a: ScoreExpr, b: ScoreExpr) -> ScoreExpr:
    return b if a == FALSE else a if b == FALSE else either(a, b)


def is_condition(expr: ScoreExpr) -> bool:
    """Whether an expression is true or false."""
    return isinstance(expr.value, bool) or expr.kind in COMPARE or expr.kind.startswith("logical")


def _from_cases(found: list[Case]) -> ScoreExpr:
    result = found[-1][1]
    for condition, leaf in reversed(found[:-1]):
        result = _chosen(condition, leaf, result)
    return result


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


def relative(score: ScoreExpr) -> ScoreExpr:
    """The score with `slope * (k - q)` for `slope * k` where that is added to it.

    The softmax over keys is the same, for the difference is one number for a query (Press et al. 2022); but numbers stay small
    near the query, where float32 would round those of late positions.
    """
    if score.kind in ("add", "sub"):
        return ScoreExpr(score.kind, tuple(map(relative, score.args)))
    return _from_query(score) if _proportional(score) else score


def _proportional(term: ScoreExpr) -> bool:
    """Whether a term is the key's position by something that is the same for all positions."""
    if term.kind not in ("mul", "div"):
        return term == K
    of_keys, factor = term.args
    if term.kind == "mul" and contains(factor, K):
        of_keys, factor = factor, of_keys
    return _proportional(of_keys) and not any(contains(factor, variable) for variable in (K, Q, SCORE))


def _from_query(term: ScoreExpr) -> ScoreExpr:
    return apply("sub", K, Q) if term == K else ScoreExpr(term.kind, tuple(map(_from_query, term.args)), term.value)


def move_to_keys(expr: ScoreExpr) -> ScoreExpr:
    """The expression of a position, of the key instead of the query."""
    if expr == Q:
        return K
    return ScoreExpr(expr.kind, tuple(move_to_keys(arg) for arg in expr.args), expr.value)


def swapped(expr: ScoreExpr) -> ScoreExpr:
    """The expression with query and key in each other's place."""
    if expr in (Q, K):
        return K if expr == Q else Q
    return ScoreExpr(expr.kind, tuple(map(swapped, expr.args)), expr.value)
