"""Learned biases: rows of a table that a pair of positions picks by its distance, added to the scores of attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmc.capture.axes import Builder, fold
from llmc.capture.scores import contains_kind, swapped
from llmc.capture.values import Const, Dim, Refusal, Scores, fixed
from llmc.ir.score import FUNCTIONS, ScoreExpr, linear_form

BIAS, TRUNCATED = "bias", "truncated"
"""Kinds of expressions that only capture knows: a learned bias, by its number, and a float made whole."""

FARTHEST = 2**20
"""Distances that are looked at; no context is longer."""

MOST_REACH = 2**13
"""A table by distance goes so far either way at most."""


def truncated(x: Scores) -> Scores:
    """Scores of pairs made whole numbers, which can only pick rows of a table."""
    return Scores(x.layout, ScoreExpr(TRUNCATED, (x.expr,)), "int64")


def looked_up_by_pairs(b: Builder, table: Const, index: Scores) -> Scores:
    """Rows of a table `[N, heads]`, or numbers of one `[N]`, for each pair of positions."""
    if not of_distance(index.expr):
        raise Refusal("a learned bias that depends on more than the distance of two positions")
    b.biases.append((table, index.expr))
    heads: tuple[Dim, ...] = tuple(fixed(size) for size in table.shape[1:])
    return Scores((*index.layout, *heads), ScoreExpr(BIAS, value=len(b.biases) - 1), "float32")


def turned(b: Builder, expr: ScoreExpr) -> ScoreExpr:
    """The expression with query and key in each other's place, learned biases too."""
    if expr.kind == BIAS:
        table, index = b.biases[int(expr.value)]  # type: ignore[arg-type]
        b.biases.append((table, swapped(index)))
        return ScoreExpr(BIAS, value=len(b.biases) - 1)
    if not contains_kind(expr, BIAS):
        return swapped(expr)
    return ScoreExpr(expr.kind, tuple(turned(b, arg) for arg in expr.args), expr.value)


def without_bias(b: Builder, score: ScoreExpr, heads: int) -> tuple[ScoreExpr, Const | None]:
    """The score without the learned bias that is added to it, and the bias as numbers by distance `[heads, 2 M + 1]`."""
    if not contains_kind(score, BIAS):
        return score, None
    for bias, rest in (score.args, score.args[::-1]) if score.kind == "add" else ():
        if bias.kind == BIAS and not contains_kind(rest, BIAS):
            return rest, by_distance(b, *b.biases[int(bias.value)], heads)  # type: ignore[arg-type]
    raise Refusal("a learned bias is not just added to the scores")


def by_distance(b: Builder, table: Const, index: ScoreExpr, heads: int) -> Const:
    """The numbers of a table by distance k - q, from -M to M, beyond which they are those of M."""
    rows = evaluated(index, torch.arange(-FARTHEST, FARTHEST + 1))
    usable = (rows >= 0) & (rows < table.shape[0])
    either = usable[FARTHEST:] & usable[: FARTHEST + 1].flip(0)  # by how far they are apart
    longest = FARTHEST if bool(either.all()) else int((~either).nonzero()[0])
    if longest < FARTHEST:
        b.longest = min(b.longest or longest, longest)
    later, earlier = rows[FARTHEST : FARTHEST + longest], rows[FARTHEST - longest + 1 : FARTHEST + 1].flip(0)
    changing = torch.nonzero((later != later[-1]) | (earlier != earlier[-1])).flatten()
    reach = int(changing[-1]) + 1 if len(changing) else 0
    if reach > MOST_REACH:
        raise Refusal(f"a learned bias that goes on changing beyond {MOST_REACH} positions")
    picked = rows[FARTHEST - reach : FARTHEST + reach + 1]

    def numbers(values: Tensor) -> Tensor:
        return values.reshape(len(values), -1)[picked].t().expand(heads, -1).contiguous()

    return fold(f"{table.name}.by_distance", numbers, [table])


def of_distance(expr: ScoreExpr) -> bool:
    """Whether it is proved that an expression depends on positions by k - q alone."""
    form = linear_form(expr)
    if form is not None:
        return form[0] + form[1] == 0
    return expr.kind in (*FUNCTIONS, TRUNCATED) and all(map(of_distance, expr.args))


def evaluated(expr: ScoreExpr, distance: Tensor) -> Tensor:
    """The whole numbers that an expression is at distances k - q."""

    def value(e: ScoreExpr) -> Any:
        if e.kind in ("q", "k"):
            return distance if e.kind == "k" else torch.zeros_like(distance)
        if e.kind == "const":
            return torch.tensor(e.value)
        args = [value(arg) for arg in e.args]
        return torch.trunc(*args) if e.kind == TRUNCATED else FUNCTIONS[e.kind][1](*args)

    return value(expr).long().expand_as(distance)
