"""Reductions, softmax and norms: over fixed dimensions, or over the keys of scores."""

from __future__ import annotations

import math
from typing import Any

import torch

from llmc.capture.axes import Builder
from llmc.capture.rules import rule
from llmc.capture.rules.pointwise import converted, elementwise
from llmc.capture.rules.selection import pooled
from llmc.capture.rules.views import without
from llmc.capture.values import (
    ONE,
    Const,
    Count,
    Probabilities,
    Refusal,
    S,
    Scores,
    Stream,
    Table,
    Value,
    fixed,
    index_of,
    normal,
)
from llmc.ir import ops
from llmc.ir.op import Op
from llmc.ir.score import const as number

POOLED = {"mean": "mean", "sum": "sum", "amax": "max"}
"""What reductions are over the tokens of a whole sequence."""

OPS = {"mean": ops.mean, "sum": ops.sum_, "amax": ops.amax, "amin": ops.amin}


ONES = (number(1), number(1.0), number(True))


def reduced(b: Builder, op: Op, x: Any, dims: Any, keepdim: bool) -> Stream:
    """A reduction over dimensions of the exported layout, all of which must be fixed, but of whole sequences."""
    x = b.stream(x)
    rank = len(x.layout)
    chosen = sorted({normal(d, rank) for d in ([dims] if isinstance(dims, int) else dims or range(rank))})
    token = index_of(x.layout, "token")
    if token in chosen and b.whole and op.name in POOLED:
        kept = reduced(b, op, pooled(b, x, token, POOLED[op.name]), chosen, True)
        return kept if keepdim else without(b, kept, set(chosen))  # type: ignore[return-value]
    if any(x.layout[d].label in ("token", "key") for d in chosen):
        raise Refusal(f"it mixes positions: {op.name} over the sequence")
    stored = [i for i, dim in enumerate(x.layout) if dim.label == "fixed"]
    inner = tuple(stored.index(d) + 1 for d in chosen if d in stored)
    node = b.node(op, x.node, dims=inner, keepdim=keepdim) if inner else x.node
    layout = []
    for i, dim in enumerate(x.layout):
        if i not in chosen:
            layout.append(dim)
        elif keepdim:
            layout.append(fixed(1) if dim.label == "fixed" else ONE)
    return Stream(tuple(layout), node)


@rule("mean", "sum", "amax", "amin")
def _reduce(b: Builder, x: Any, dims: Any = None, keepdim: bool = False, *, name: str, dtype: Any = None) -> Value:
    x = converted(b, x, dtype)
    if b.whole and name == "sum" and isinstance(x, Scores) and x.expr in ONES and index_of(x.layout, "token") is not None:
        return counted(x, dims, keepdim)
    return reduced(b, OPS[name], x, dims, keepdim)


def counted(x: Scores, dims: Any, keepdim: bool) -> Count:
    """The sum of ones over the sequence."""
    chosen = {normal(d, len(x.layout)) for d in ([dims] if isinstance(dims, int) else dims or range(len(x.layout)))}
    if any(x.layout[d].extent not in (1, S) for d in chosen) or index_of(x.layout, "token") not in chosen or x.pairwise:
        raise Refusal("a sum of ones over something else than the sequence")
    layout = [ONE if i in chosen else d for i, d in enumerate(x.layout) if keepdim or i not in chosen]
    return Count(tuple(layout), "int64" if x.dtype == "bool" else x.dtype)


@rule("var", "std")
def _variance(b: Builder, x: Any, dims: Any = None, unbiased: Any = True, keepdim: bool = False, *, name: str,
              correction: Any = None) -> Value:  # fmt: skip
    x = b.stream(x)
    rank = len(x.layout)
    dims = [dims] if isinstance(dims, int) else list(dims or range(rank))
    if any(x.layout[normal(d, rank)].label in ("token", "key") for d in dims):
        raise Refusal(f"it mixes positions: {name} over the sequence")
    count = math.prod(x.layout[normal(d, rank)].size for d in dims)
    fewer = float(correction if correction is not None else 1 if unbiased else 0)
    mean = reduced(b, ops.mean, x, dims, True)
    centred = elementwise(b, ops.sub, x, mean)
    result: Value = reduced(b, ops.mean, elementwise(b, ops.mul, centred, centred), dims, keepdim)
    if count <= fewer:
        raise Refusal(f"{name} of {count} elements, corrected by {fewer:g}, is not a number")
    if fewer:
        result = elementwise(b, ops.mul, result, count / (count - fewer))
    return elementwise(b, ops.sqrt, result) if name == "std" else result


@rule("softmax", "_softmax")
def _softmax(b: Builder, x: Any, dim: int, half_to_float: Any = None, *, dtype: Any = None) -> Value:
    if isinstance(x, Table):
        x = b.resolve(x)
    place = normal(dim, len(x.layout))
    if isinstance(x, Scores) and x.layout[place].label == "key":
        return Probabilities(x.layout, x)
    x = b.stream(x)
    if x.layout[place].label != "fixed":
        raise Refusal("it mixes positions: softmax over the sequence")
    inner = sum(other.label == "fixed" for other in x.layout[: place + 1])
    return Stream(x.layout, b.node(ops.softmax, x.node, dim=inner))


def normalized(b: Builder, x: Any, shape: Any) -> Stream:
    """x, whose last dimension alone is normalized."""
    x = b.stream(x)
    if len(shape) != 1 or x.layout[-1].label != "fixed":
        raise Refusal("a norm over something else than the last, fixed dimension")
    return x


@rule("layer_norm")
def _layer_norm(
    b: Builder, x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn: bool = True
) -> Value:
    x = normalized(b, x, shape)
    node = b.node(ops.layer_norm, x.node, vector(b, weight), vector(b, bias), eps=eps)
    return Stream(x.layout, node)


@rule("rms_norm")
def _rms_norm(b: Builder, x: Any, shape: Any, weight: Any = None, eps: float | None = None) -> Value:
    x = normalized(b, x, shape)
    epsilon = torch.finfo(torch.float32).eps if eps is None else eps
    return Stream(x.layout, b.node(ops.rms_norm, x.node, vector(b, weight), eps=epsilon))


def vector(b: Builder, value: Any) -> Any:
    """A weight of one dimension, or None."""
    if value is not None and not isinstance(value, Const):
        raise Refusal("a norm whose weight is computed")
    return None if value is None else b.weight_node(value)
