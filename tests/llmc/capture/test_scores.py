"""Rewriting score expressions changes none of their values."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.capture.scores import EXCLUDED, negate, relative, simplify, split
from llmc.capture.tables import table_expression
from llmc.capture.values import Refusal
from llmc.ir.score import HEAD, SCORE, K, Q, ScoreContext, ScoreExpr, apply, const, per_head

SIZE, HEADS = 7, 2
SLOPES = per_head([0.5, -0.25])
GRID = ScoreContext(
    torch.randn(HEADS, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).double(),
    torch.arange(HEADS).view(-1, 1, 1),
    torch.arange(SIZE).view(1, -1, 1),
    torch.arange(SIZE).view(1, 1, -1),
)

whole = st.sampled_from([Q, K, HEAD, apply("sub", Q, K), const(0), const(1), const(3)])
comparisons = st.builds(apply, st.sampled_from(["le", "lt", "ge", "gt", "eq", "ne"]), whole, whole)
conditions = st.recursive(
    comparisons,
    lambda inner: st.builds(apply, st.sampled_from(["logical_and", "logical_or"]), inner, inner)
    | st.builds(lambda c: apply("logical_not", c), inner)
    | st.builds(lambda c, a, b: ScoreExpr("where", (c, a, b)), inner, inner, inner),
    max_leaves=5,
)
numbers = st.sampled_from([const(v) for v in (0.0, 1.0, -2.0, 0.5, -1e9, -math.inf)])
scores = st.recursive(
    st.just(SCORE) | numbers,
    lambda inner: st.builds(lambda c, a, b: ScoreExpr("where", (c, a, b)), conditions, inner, inner)
    | st.builds(lambda a, b: ScoreExpr("add", (a, b)), inner, inner)
    | st.builds(lambda a, c: ScoreExpr("mul", (a, const(c))), inner, st.sampled_from([0.5, 2.0])),
    max_leaves=5,
)


def values(expr):
    return expr.evaluate(GRID).expand(HEADS, SIZE, SIZE)


@settings(max_examples=300, deadline=None)
@given(conditions)
def test_simplified_conditions_are_true_for_the_same_pairs(condition):
    expected = values(condition)
    assert torch.equal(values(simplify(condition)), expected)
    assert torch.equal(values(negate(simplify(condition))), ~expected)


@settings(max_examples=300, deadline=None)
@given(scores)
def test_split_scores_are_the_same_where_a_key_is_admitted(expr):
    expected = values(expr).double()
    try:
        score, admits = split(simplify(expr))
    except Refusal:
        return
    admitted = values(admits).bool()
    assert torch.equal(admitted, expected > EXCLUDED / 2)
    assert torch.allclose(values(score).double()[admitted], expected[admitted])


terms = st.sampled_from([
    SCORE, K, Q, const(2.0), apply("mul", SLOPES, K), apply("mul", K, const(0.5)),
    apply("div", apply("mul", K, SLOPES), const(3)),
    apply("mul", SCORE, K), apply("mul", Q, K), apply("div", const(1.0), apply("add", K, const(1))), apply("sub", K, Q),
])  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.recursive(terms, lambda inner: st.builds(apply, st.sampled_from(["add", "sub"]), inner, inner), max_leaves=5))
def test_softmax_over_keys_is_the_same_with_slopes_of_the_distance(expr):
    expected, found = (values(e).double().softmax(-1) for e in (expr, relative(expr)))
    assert torch.allclose(found, expected, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.integers(-4, 4), st.integers(-4, 4), st.booleans(), st.integers(3, SIZE))
def test_tables_of_stretches_are_understood(low, high, boolean, size):
    distance = torch.arange(size)[:, None] - torch.arange(size)[None, :]
    table = (distance >= low) & (distance < high)
    found = simplify(table_expression(table if boolean else table.float()))
    assert torch.equal(values(found)[0, :size, :size].bool(), table)
