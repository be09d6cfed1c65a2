"""Attention: the softmax of scores over their keys, and the sum of values that it weighs."""

from __future__ import annotations

import math
from typing import Any

from torch.fx import Node

from llmc.capture.axes import Builder, broadcast_layout, describe
from llmc.capture.biases import without_bias
from llmc.capture.rules import rule
from llmc.capture.rules.contractions import _matmul
from llmc.capture.rules.pointwise import elementwise
from llmc.capture.rules.reductions import _softmax, vector
from llmc.capture.rules.views import _transpose
from llmc.capture.scores import peel_scale, relative, split
from llmc.capture.values import TOKEN, Layout, Probabilities, Refusal, Scores, Stream, Value, fixed
from llmc.ir import ops
from llmc.ir.program import type_of
from llmc.ir.score import CAUSAL, ScoreExpr, implies_causal


def weigh(b: Builder, weights: Probabilities, values: Any) -> Stream:
    """Attention weights by values: summed over keys."""
    values = b.stream(values)
    if [dim.label for dim in weights.layout[-2:]] != ["token", "key"] or values.layout[-2].label != "token":
        raise Refusal("attention weights are summed over something else than keys")
    if weights.scores.source is None:
        raise Refusal("attention weights that depend on positions alone")
    q, k = weights.scores.source
    lead = broadcast_layout([weights.layout[:-2], values.layout[:-2]])
    return attend(b, q, _transpose(b, k, -2, -1), values, weights.scores.expr, lead)


def attend(b: Builder, q: Any, k: Any, v: Any, expr: ScoreExpr, lead: Layout | None = None, sinks: Any = None) -> Stream:
    """One attention op from q, k, v `[..., heads, token, features]` and the expression of its scores.

    lead: the dimensions before the last two of the result; those of q by default.
    """
    score, admits = split(expr)
    scale, score = peel_scale(score if sinks is not None else relative(score))
    q, k, v = (b.stream(x) for x in (q, k, v))
    lead = q.layout[:-2] if lead is None else lead
    if [dim.size for dim in q.layout[:-2] if dim.size > 1] != [dim.size for dim in lead if dim.size > 1]:
        raise Refusal(f"queries {describe(q.layout)} have other heads than their attention {describe(lead)}")
    heads = math.prod(dim.size for dim in lead)
    query, *pair = (head_major(b, x, lead) for x in (q, k, v))
    key, value = shared_heads(*as_many_heads(b, *pair), heads)
    score, bias = without_bias(b, score, heads)
    optional = [vector(b, sinks)] if bias is None else [vector(b, sinks), b.weight_node(bias)]
    causal = not b.whole or (bias is None and implies_causal(admits))
    attributes = {} if causal else {"causal": False}
    node = b.node(ops.attention, query, key, value, *optional, scale=scale, score=score, admits=admits, **attributes)
    size = type_of(node).fixed[-1]
    layout: Layout = (*lead, TOKEN, fixed(size))
    return Stream(layout, b.reshaped(node, tuple(d.size for d in layout if d.label == "fixed")))


def head_major(b: Builder, x: Stream, lead: Layout) -> Node:
    """x as `[T, heads, features]`; keys and values may have fewer heads, if the heads left out come last."""
    *outer, sequence, features = (dim.label for dim in x.layout)
    if sequence != "token" or features not in ("fixed", "one") or "token" in outer:
        raise Refusal(f"attention over {describe(x.layout)}: the last dimensions must be the sequence and the features")
    sizes = [dim.size for dim in x.layout[:-2]]
    own = [1] * (len(lead) - len(sizes)) + sizes[max(len(sizes) - len(lead), 0) :]
    repeated = [mine != other.size for mine, other in zip(own, lead, strict=True)]
    first = repeated.index(True) if True in repeated else len(own)
    own_again = any(size > 1 and not again for size, again in zip(own[first:], repeated[first:], strict=True))
    if own_again or math.prod(sizes) != math.prod(own):
        raise Refusal("heads of keys repeat in an order that groups of queries do not follow")
    return b.reshaped(x.node, (math.prod(own), x.layout[-1].size))


def as_many_heads(b: Builder, k: Node, v: Node) -> tuple[Node, Node]:
    """Keys and values with the same number of heads: one head is repeated for those of the other."""
    count = max(type_of(x).fixed[0] for x in (k, v))
    wide = [x if type_of(x).fixed[0] == count else b.node(ops.expand, x, shape=(count, type_of(x).fixed[1])) for x in (k, v)]
    return wide[0], wide[1]


def shared_heads(k: Node, v: Node, heads: int) -> list[Node]:
    """Keys and values before each head was repeated for its group of queries, where both were."""
    bases = [before_repeat(node) for node in (k, v)]
    if None in bases or type_of(bases[0]).fixed[0] != type_of(bases[1]).fixed[0]:
        return [k, v]
    return bases  # type: ignore[return-value]


def before_repeat(node: Node) -> Node | None:
    """x `[G, D]` of `reshape(expand(reshape(x, [G, 1, D]), [G, R, D]), [G * R, D])`, or of `expand(x, [R, D])`; or None."""
    wide: Any = node.args[0] if node.target is ops.reshape else node
    if wide.target is not ops.expand:
        return None
    apart: Any = wide.args[0]
    *groups, size = type_of(apart).fixed
    if type_of(wide).fixed[-1] != size or type_of(node).fixed[1:] != (size,) or len(groups) > 2 or groups[1:] not in ([], [1]):
        return None
    base = apart.args[0] if apart.target is ops.reshape else apart
    if len(groups) == 1 and groups != [1]:
        return None
    return base if type_of(base).fixed == (groups[0], size) else apart if len(groups) == 1 else None


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
    if is_causal and not isinstance(scores, Scores):
        raise Refusal("causal attention over something else than the sequence")
    if is_causal:
        causal = Scores(scores.layout[-2:], CAUSAL, "bool")
        scores = elementwise(b, ops.where, causal, scores, -math.inf)
    if mask is not None:
        mask = b.resolve(mask) if hasattr(mask, "base") else mask
        if getattr(mask, "dtype", None) == "bool":
            scores = elementwise(b, ops.where, mask, scores, -math.inf)
        else:
            scores = elementwise(b, ops.add, scores, mask)
    if not isinstance(scores, Scores):  # heads of one token attend to each other
        return _matmul(b, _softmax(b, scores, -1), v)
    return weigh(b, Probabilities(scores.layout, scores), v)
