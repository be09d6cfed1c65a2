"""Mixtures of experts: which are chosen, and what they make of a token."""

from __future__ import annotations

from typing import Any

from llmc.capture.axes import Builder, fold
from llmc.capture.rules import rule
from llmc.capture.values import Const, Refusal, Stream, Value, fixed, normal
from llmc.ir import ops


@rule("topk")
def _top_k(b: Builder, x: Any, k: int, dim: int = -1, largest: bool = True, in_order: bool = True) -> list[Value]:
    x = b.stream(x)
    place = normal(dim, len(x.layout))
    if x.layout[place].label in ("token", "key"):
        raise Refusal("it mixes positions: the largest of the sequence are chosen")
    if place != len(x.layout) - 1 or x.layout[place].label != "fixed" or not largest:
        raise Refusal("a choice of other elements than the largest of the last dimension")
    layout = (*x.layout[:-1], fixed(k))
    return [Stream(layout, b.node(op, x.node, k=k)) for op in (ops.top_k, ops.top_k_indices)]


def expert_product(b: Builder, x: Any, chosen: Any, weight: Any, bias: Any, transposed: bool) -> Value:
    """`llmc::expert_linear`, whose weights are `[E, N, K]`, or `[E, K, N]` if transposed, and biases `[E, N]`."""
    if not all(value is None or isinstance(value, Const) for value in (weight, bias)) or len(weight.shape) != 3:
        raise Refusal("experts whose weights are computed")
    x, chosen = b.stream(x), b.stream(chosen)
    labels = [[dim.label for dim in value.layout] for value in (x, chosen)]
    if labels[0] not in (["token", "fixed"], ["token", "fixed", "fixed"]) or labels[1] != ["token", "fixed"]:
        raise Refusal("experts of something else than one row a token")
    rows = weight.shape[2 if transposed else 1]
    experts, inner = weight.shape[0], x.layout[-1].size
    stacked = fold(f"{weight.name}.stacked", lambda t: (t.mT if transposed else t).reshape(-1, inner), [weight])
    stacked_bias = None if bias is None else b.weight_node(fold(f"{bias.name}.stacked", lambda t: t.reshape(-1), [bias]))
    node = b.node(ops.expert_linear, x.node, chosen.node, b.weight_node(stacked), stacked_bias, experts=experts)
    return Stream((*chosen.layout, fixed(rows)), node)
