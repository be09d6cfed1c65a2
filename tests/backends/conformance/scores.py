"""Score expressions of every kind, over heads that each have their keys and heads that share them."""

from __future__ import annotations

from collections.abc import Iterator

from torch.fx import Node

from llmc.conformance.programs import Make, heads, weight
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.score import CAUSAL, HEAD, SCORE, K, Q, ScoreExpr, apply, const, per_head

HEADS, SHARED = 6, 2


def f(name: str, *args: ScoreExpr | float) -> ScoreExpr:
    """A function of expressions and numbers."""
    return apply(name, *(arg if isinstance(arg, ScoreExpr) else const(arg) for arg in args))


DISTANCE = f("sub", Q, K)
SLOPES = per_head([2.0 ** -(i + 1) for i in range(HEADS)])
WINDOW = f("logical_and", CAUSAL, f("lt", DISTANCE, 5))
SOFTCAP = f("mul", f("tanh", f("div", SCORE, 2.0)), 2.0)
BIAS = f("add", SCORE, f("mul", SLOPES, f("sub", K, Q)))
FIRST_AND_WINDOW = f("logical_and", CAUSAL, f("logical_or", f("lt", K, 2), f("lt", DISTANCE, 7)))
HEAD_WINDOWS = f("logical_and", CAUSAL, f("le", DISTANCE, per_head([float(3 * i) for i in range(HEADS)])))
WHERE = f("where", f("eq", HEAD, 1), SCORE, f("mul", SCORE, 0.5))
BUCKETS = f("sub", SCORE, f("log", f("add", f("minimum", DISTANCE, 20), 1.0)))
ODD_HEADS = f("logical_or", f("ne", HEAD, 3), f("ge", f("maximum", K, 1), 1))
ROUNDED = f("add", SCORE, f("bfloat16", f("mul", per_head([0.31 * (i + 1) for i in range(HEADS)]), f("bfloat16", K))))
OTHERS = f("add", f("neg", f("abs", SCORE)), f("where", f("logical_not", f("gt", K, 9)), f("exp", f("neg", SLOPES)), 0.0))

EXPRESSIONS: dict[str, tuple[ScoreExpr, ScoreExpr, bool]] = {
    "causal": (SCORE, CAUSAL, False),
    "window": (SCORE, WINDOW, False),
    "softcap": (SOFTCAP, CAUSAL, False),
    "bias": (BIAS, CAUSAL, False),
    "sinks": (SCORE, CAUSAL, True),
    "where": (WHERE, CAUSAL, False),
    "softcap-window": (SOFTCAP, WINDOW, False),
    "bias-window": (BIAS, WINDOW, False),
    "sinks-window": (SCORE, WINDOW, True),
    "softcap-sinks-window": (SOFTCAP, WINDOW, True),
    "first-and-window": (SCORE, FIRST_AND_WINDOW, False),
    "head-windows": (SCORE, HEAD_WINDOWS, False),
    "buckets": (BUCKETS, CAUSAL, False),
    "rounded-bias": (ROUNDED, CAUSAL, False),
    "other-functions": (OTHERS, f("logical_and", CAUSAL, ODD_HEADS), True),
}
"""Of each: what is done to a score, which keys are admitted, and whether there are sinks."""


def functions(expr: ScoreExpr) -> Iterator[str]:
    """Every function in an expression."""
    if expr.args:
        yield expr.kind
    for arg in expr.args:
        yield from functions(arg)


def attend(name: str) -> Make:
    """Two attentions: each head has keys of its own, and heads share them three by three; values have another size."""
    score, admits, sunk = EXPRESSIONS[name]

    def make(e: Editor, a: Node, b: Node) -> Node:
        def over(keys: Node, values: Node) -> Node:
            sinks = weight(e, HEADS) if sunk else None
            made = e.op(ops.attention, heads(e, a, HEADS), keys, values, sinks, scale=0.5, score=score, admits=admits)
            return e.op(ops.reshape, made, shape=(made.meta["type"].width,))

        keys = heads(e, b, HEADS)
        few = e.op(ops.slice_, keys, dim=1, start=0, stop=SHARED)
        short = e.op(ops.slice_, few, dim=2, start=1, stop=6)
        return e.op(ops.concat, over(keys, keys), over(few, short), dim=1)

    return make


SCORES: dict[str, Make] = {name: attend(name) for name in EXPRESSIONS}
