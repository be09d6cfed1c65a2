"""Attention: the softmax of scores over their keys, and the sum of values that it weighs."""

from __future__ import annotations

import math
from typing import Any

from torch.fx import Node

from llmc.capture.axes import Builder, describe
from llmc.capture.rules import rule
from llmc.capture.rules.contractions import _matmul
from llmc.capture.rules.pointwise import elementwise
from llmc.capture.rules.reductions import vector
from llmc.capture.rules.views import _transpose
from llmc.capture.scores import peel_scale, split
from llmc.capture.values import ONE, TOKEN, Dim, Probabilities, Refusal, Scores, Stream, Value, fixed
from llmc.ir import ops
from llmc.ir.program import type_of
from llmc.ir.score import CAUSAL, ScoreExpr


def weigh(b: Builder, weights: Probabilities, values: Any) -> Stream:
    """Attention weights by values: summed over keys."""
    values = b.stream(values)
    if weights.layout[-1].label != "key" or values.layout[-2].label != "token":
        raise Refusal("attention weights are summed over something else than keys")
    if weights.scores.source is None:
        raise Refusal("attention weights that depend on positions alone")
    q, k = weights.scores.source
    return attend(b, q, _transpose(b, k, -2, -1), values, weights.scores.expr)


def attend(b: Builder, q: Any, k: Any, v: Any, expr: ScoreExpr, sinks: Any = None) -> Stream:
    """One attention op from q, k, v `[..., heads, token, features]` and the expression of its scores."""
    score, admits = split(expr)
    scale, score = peel_scale(score)
    q, k, v = (b.stream(x) for x in (q, k, v))
    lead = q.layout[:-2]
    heads = math.prod(dim.size for dim in lead)
    nodes = [head_major(b, q, lead, heads), *(head_major(b, x, lead, None) for x in (k, v))]
    nodes[1:] = shared_heads(nodes[1], nodes[2], heads)
    sink = vector(b, sinks)
    node = b.node(ops.attention, *nodes, sink, scale=scale, score=score, admits=admits)
    size = type_of(node).fixed[-1]
    layout: list[Dim] = [dim for dim in lead] + [TOKEN, fixed(size)]  # noqa: C416
    return Stream(tuple(layout), b.reshaped(node, tuple(d.size for d in layout if d.label == "fixed")))


def head_major(b: Builder, x: Stream, lead: tuple[Dim, ...], heads: int | None) -> Node:
    """x as `[T, heads, features]`; keys and values may have fewer heads, if the heads left out come last."""
    if x.layout[-2].label != "token" or x.layout[-1].label != "fixed" or any(d.label == "token" for d in x.layout[:-2]):
        raise Refusal(f"attention over {describe(x.layout)}: the last dimensions must be the sequence and the features")
    own = (*[ONE] * (len(lead) - len(x.layout) + 2), *x.layout[:-2])
    if heads is None:
        repeated = [mine.size != other.size for mine, other in zip(own, lead, strict=True)]
        if True in repeated and not all(repeated[repeated.index(True) :]) and any(
            d.size > 1 for d in own[repeated.index(True) :]
        ):
            raise Refusal("heads of keys repeat in an order that groups of queries do not follow")
        heads = math.prod(dim.size for dim in own)
    return b.reshaped(x.node, (heads, x.layout[-1].size))


def shared_heads(k: Node, v: Node, heads: int) -> list[Node]:
    """Keys and values before each head was repeated for its group of queries, where both were."""
    bases = [before_repeat(node) for node in (k, v)]
    if None in bases or type_of(bases[0]).fixed[0] != type_of(bases[1]).fixed[0]:
        return [k, v]
    return bases  # type: ignore[return-value]


def before_repeat(node: Node) -> Node | None:
    """x of `reshape(expand(reshape(x, [G, 1, D]), [G, R, D]), [G * R, D])`, or None."""
    if node.target is not ops.reshape or node.args[0].target is not ops.expand:  # type: ignore[union-attr]
        return None
    wide: Any = node.args[0]
    apart: Any = wide.args[0]
    if apart.op != "call_function" or apart.target is not ops.reshape:
        return None
    groups, repeats, size = (*type_of(wide).fixed, 0, 0, 0)[:3]
    base: Any = apart.args[0]
    fits = type_of(apart).fixed == (groups, 1, size) and type_of(base).fixed == (groups, size)
    return base if fits and type_of(node).fixed == (groups * repeats, size) else None


@rule("scaled_dot_product_attention")
def _sdpa(b: Builder, q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0, is_causal: bool = False, *,
          scale: float | None = None, enable_gqa: bool = False) -> Value:  # fmt: skip
    q, k, v = (b.stream(x) for x in (q, k, v))
    if dropout:
        raise Refusal("attention with dropout; call module.eval() first")
    if enable_gqa:
        from llmc.capture.rules.views import _repeat_interleave

        repeats = q.layout[-3].size // k.layout[-3].size
        k, v = (_repeat_interleave(b, x, repeats, -3) if repeats > 1 else x for x in (k, v))
    scores = _matmul(b, q, _transpose(b, k, -2, -1))
    scores = elementwise(b, ops.mul, scores, q.layout[-1].size ** -0.5 if scale is None else scale)
    if is_causal:
        causal = Scores(scores.layout[-2:], CAUSAL, "bool")
        scores = elementwise(b, ops.where, causal, scores, -math.inf)
    if mask is not None:
        mask = b.resolve(mask) if hasattr(mask, "base") else mask
        if getattr(mask, "dtype", None) == "bool":
            scores = elementwise(b, ops.where, mask, scores, -math.inf)
        else:
            scores = elementwise(b, ops.add, scores, mask)
    assert isinstance(scores, Scores)
    return weigh(b, Probabilities(scores.layout, scores), v)
