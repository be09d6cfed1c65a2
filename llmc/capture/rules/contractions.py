"""Products: with weights, within a token, and of queries with keys, which are scores."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from llmc.capture.axes import Builder, broadcast_layout, describe, fold
from llmc.capture.biases import looked_up_by_pairs
from llmc.capture.rules import rule
from llmc.capture.rules.pointwise import elementwise
from llmc.capture.rules.reductions import vector
from llmc.capture.values import KEY, TOKEN, Const, Probabilities, Refusal, Scores, Stream, Table, Value, fixed, index_of
from llmc.ir import ops
from llmc.ir.score import SCORE


@rule("embedding")
def _embedding(b: Builder, table: Any, ids: Any, *ignored: Any) -> Value:
    if not isinstance(table, Const):
        raise Refusal("an embedding whose table is computed")
    return looked_up(b, table, ids)


def looked_up(b: Builder, table: Const, ids: Any) -> Stream | Scores:
    """Rows of a constant table."""
    if isinstance(ids, Scores) and ids.pairwise and ids.source is None:
        return looked_up_by_pairs(b, table, ids)
    if isinstance(ids, Scores) and ids.expr.kind == "const" and index_of(ids.layout, "token") is not None:
        sizes = tuple(dim.size for dim in ids.layout if dim.label == "fixed")
        ids = Stream(ids.layout, b.reshaped(same_for_all(b, ids.expr.value), sizes))
    ids = b.stream(ids)
    node = b.node(ops.embedding, ids.node, b.weight_node(table))
    return Stream((*ids.layout, fixed(table.shape[1])), node)


def same_for_all(b: Builder, number: Any) -> Node:
    """A whole number for each token `[T]`."""
    return b.node(ops.add, b.node(ops.mul, b.editor.input("input_ids"), 0), number)


def features(x: Any, b: Builder) -> Stream:
    """x as a stream whose last dimension can be contracted with a weight."""
    x = b.stream(x)
    if x.layout[-1].label == "token":
        raise Refusal("it mixes positions: a weight is multiplied along the sequence")
    return x if x.layout[-1].label == "fixed" else Stream((*x.layout[:-1], fixed(1)), b.reshaped(x.node, (*x.fixed, 1)))


@rule("linear")
def _linear(b: Builder, x: Any, weight: Any, bias: Any = None) -> Value:
    if not isinstance(weight, Const) or len(weight.shape) != 2:
        raise Refusal("a linear layer whose weight is computed")
    x = features(x, b)
    node = b.node(ops.linear, x.node, b.weight_node(weight), vector(b, bias))
    return Stream((*x.layout[:-1], fixed(weight.shape[0])), node)


def transposed(weight: Const) -> Const:
    """A matrix the other way around."""
    return fold(f"{weight.name}.transposed", lambda t: t.t(), [weight])


@rule("addmm")
def _addmm(b: Builder, bias: Any, x: Any, weight: Any, *, beta: float = 1, alpha: float = 1) -> Value:
    if beta != 1 or alpha != 1 or not isinstance(weight, Const):
        return elementwise(b, ops.add, elementwise(b, ops.mul, bias, beta),
                           elementwise(b, ops.mul, _matmul(b, x, weight), alpha))  # fmt: skip
    if isinstance(bias, Const) and len(bias.shape) == 1:
        return _linear(b, x, transposed(weight), bias)
    return elementwise(b, ops.add, _matmul(b, x, weight), bias)


@rule("baddbmm")
def _baddbmm(b: Builder, added: Any, x: Any, y: Any, *, beta: float = 1, alpha: float = 1) -> Value:
    made = _matmul(b, x, y)
    scaled = [v if factor == 1 else elementwise(b, ops.mul, v, factor) for v, factor in ((added, beta), (made, alpha))]
    return elementwise(b, ops.add, *scaled)


@rule("matmul", "mm", "bmm", "mv")
def _matmul(b: Builder, x: Any, y: Any) -> Value:
    if isinstance(x, Table):
        x = b.resolve(x)
    if isinstance(x, Probabilities):
        from llmc.capture.rules.attention import weigh

        return weigh(b, x, y)
    if isinstance(x, Scores) and x.pairwise:
        raise Refusal("it mixes positions: values are summed by numbers that did not pass a softmax over keys")
    if outer(x, y):
        return elementwise(b, ops.mul, x, y)
    if isinstance(y, Const):
        return by_weight(b, x, y)
    if isinstance(x, Const):
        raise Refusal("a weight is multiplied from the left")
    x, y = b.stream(x), b.stream(y)
    if "token" in (x.layout[-1].label, y.layout[-2].label):
        raise Refusal("it mixes positions: a sum over the sequence")
    rows, columns = x.layout[-2].label, y.layout[-1].label
    if rows == "token" and columns == "token":
        lead = broadcast_layout([x.layout[:-2], y.layout[:-2]])
        return Scores((*lead, TOKEN, KEY), SCORE, "float32", (x, y))
    if "token" in (rows, columns):
        raise Refusal(f"queries and keys of different kinds: {describe(x.layout)} by {describe(y.layout)}")
    return within_token(b, x, y)


def outer(x: Any, y: Any) -> bool:
    """Whether a product sums over nothing and so is one of broadcast elements, of each token with itself."""
    if len(x.layout) < 2 or len(y.layout) < 2 or x.layout[-1].extent != 1 or y.layout[-2].extent != 1:
        return False
    return (x.layout[-2].label, y.layout[-1].label) != ("token", "token")


def by_weight(b: Builder, x: Any, y: Const) -> Value:
    """A product with a constant from the right."""
    x = features(x, b)
    if len(y.shape) == 1:
        row = fold(f"{y.name}.row", lambda t: t[None], [y])
        node = b.node(ops.linear, x.node, b.weight_node(row))
        return Stream(x.layout[:-1], b.reshaped(node, x.fixed[:-1]))
    if len(y.shape) != 2:
        raise Refusal("a product with a stack of matrices")
    return _linear(b, x, transposed(y))


def within_token(b: Builder, x: Stream, y: Stream) -> Value:
    """Products of matrices that belong to the same token."""
    if index_of(x.layout, "token") is None or index_of(y.layout, "token") is None:
        raise Refusal("a product of values without positions")
    lead = broadcast_layout([x.layout[:-2], y.layout[:-2]])
    inner, left, right = x.layout[-1].size, x.layout[-2].size, y.layout[-1].size
    a = b.fitted(x, (*lead, fixed(left), fixed(inner)))
    c = b.fitted(y, (*lead, fixed(inner), fixed(right)))
    return Stream((*lead, fixed(left), fixed(right)), b.node(ops.matmul, a, c))
