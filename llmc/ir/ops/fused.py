"""Fused ops: several others in one, each written in those that it stands for.

A backend that has code for some names them in `Backend.fused`; for any other they are written out before it lowers a program
(`llmc.ir.decompose`). Two results are one value `[T, 2, ...]`, of which slices are taken.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from llmc.ir.composite import fused
from llmc.ir.op import require
from llmc.ir.ops.attention import attention
from llmc.ir.ops.contractions import linear, round_rows
from llmc.ir.ops.norms import gated, layer_norm, rms_norm, rope
from llmc.ir.ops.pointwise import add, gelu, relu, silu
from llmc.ir.ops.views import concat, reshape, slice_
from llmc.ir.score import ScoreExpr


def both(first: Tensor, second: Tensor) -> Tensor:
    """Two values of one shape as one `[T, 2, ...]`."""
    shape = (1, *first.shape[1:])
    return concat(reshape(first, shape=shape), reshape(second, shape=shape), dim=1)


def half(whole: Tensor, index: int) -> Tensor:
    """The first or second of two values."""
    return reshape(slice_(whole, dim=1, start=index, stop=index + 1), shape=whole.shape[2:])


def total_of(x: Tensor, residual: Tensor) -> Tensor:
    """The sum of two values of one shape."""
    require(x.shape == residual.shape, f"a residual of {tuple(residual.shape)} does not fit {tuple(x.shape)}")
    return add(x, residual)


@fused
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor | None = None, *, eps: float) -> Tensor:
    """A sum and its norm, `[T, 2, ..., D]`: x and residual `[T, ..., D]`."""
    total = total_of(x, residual)
    return both(total, rms_norm(total, weight, eps=eps))


@fused
def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float
) -> Tensor:
    """A sum and its norm, `[T, 2, ..., D]`: x and residual `[T, ..., D]`."""
    total = total_of(x, residual)
    return both(total, layer_norm(total, weight, bias, eps=eps))


@fused
def rounded_rms_norm(x: Tensor, weight: Tensor | None = None, *, eps: float, to: str) -> Tensor:
    """A norm whose rows are rounded for the products that read them."""
    return round_rows(rms_norm(x, weight, eps=eps), to=to)


@fused
def rounded_layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float, to: str) -> Tensor:
    """A norm whose rows are rounded for the products that read them."""
    return round_rows(layer_norm(x, weight, bias, eps=eps), to=to)


@fused
def rounded_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor | None = None, *, eps: float, to: str) -> Tensor:
    """A sum as it is and its norm rounded, `[T, 2, ..., D]`."""
    whole = add_rms_norm(x, residual, weight, eps=eps)
    return both(half(whole, 0), round_rows(half(whole, 1), to=to))


@fused
def rounded_add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float, to: str
) -> Tensor:
    """A sum as it is and its norm rounded, `[T, 2, ..., D]`."""
    whole = add_layer_norm(x, residual, weight, bias, eps=eps)
    return both(half(whole, 0), round_rows(half(whole, 1), to=to))


@fused
def gated_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str, activations: str = "float32"
) -> Tensor:
    """The gate and up projections of a feed-forward and what is made of them, `[T, ..., N]`: x `[T, ..., K]`, weight `[2 N, K]`
    and bias `[2 N]`, the gate's first."""
    both = linear(x, weight, bias, activations=activations)
    last, size = len(both.shape) - 1, both.shape[-1]
    require(size % 2 == 0, f"gates and as many others are no {size} outputs")
    gate, up = (slice_(both, dim=last, start=start, stop=start + size // 2) for start in (0, size // 2))
    return gated(gate, up, activation=activation)


@fused
def rounded_gated(gate: Tensor, up: Tensor, *, activation: str, to: str) -> Tensor:
    """A gated activation whose rows are rounded for the products that read them."""
    return round_rows(gated(gate, up, activation=activation), to=to)


@fused
def rounded_silu(x: Tensor, *, to: str) -> Tensor:
    """An activation whose rows are rounded for the products that read them."""
    return round_rows(silu(x), to=to)


@fused
def rounded_relu(x: Tensor, *, to: str) -> Tensor:
    """An activation whose rows are rounded for the products that read them."""
    return round_rows(relu(x), to=to)


@fused
def rounded_gelu(x: Tensor, *, approximate: str, to: str) -> Tensor:
    """An activation whose rows are rounded for the products that read them."""
    return round_rows(gelu(x, approximate=approximate), to=to)


@fused
def rope_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    sinks: Tensor | None = None,
    *,
    layout: str,
    scale: float,
    score: ScoreExpr,
    admits: ScoreExpr,
    causal: bool = True,
    context: Any,
) -> Tensor:
    """Attention whose queries and keys are turned as they are read; the cache holds turned keys."""
    turned_q, turned_k = rope(q, cos, sin, layout=layout), rope(k, cos, sin, layout=layout)
    rest = {"scale": scale, "score": score, "admits": admits, "causal": causal, "context": context}
    return attention(turned_q, turned_k, v, sinks, **rest)


ROUNDING = (linear, gated_linear)
"""Ops that round the rows of their first operand as their attribute `activations` says."""

ROUNDED = {
    rms_norm: rounded_rms_norm,
    layer_norm: rounded_layer_norm,
    add_rms_norm: rounded_add_rms_norm,
    add_layer_norm: rounded_add_layer_norm,
    gated: rounded_gated,
    silu: rounded_silu,
    relu: rounded_relu,
    gelu: rounded_gelu,
}
"""Ops, and the same ops with their rows rounded."""
