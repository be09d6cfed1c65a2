"""Products of values with weights and with each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llmc.ir.op import op, require, require_float
from llmc.ir.ops.pointwise import broadcast_fixed
from llmc.ir.types import TensorType


def _infer_embedding(ids: TensorType, table: TensorType) -> TensorType:
    require(ids.streams and ids.dtype == "int64", f"embedding looks up one int64 a token, got {ids}")
    require(not table.streams and len(table.shape) == 2, f"embedding needs a table of two dimensions, got {table}")
    require_float("embedding", table)
    return TensorType("float32", (*ids.shape, table.shape[1]))


@op(_infer_embedding, flops=lambda operands, attributes, result: 0)
def embedding(ids: Tensor, table: Tensor) -> Tensor:
    """Rows of a table: ids int64 `[T, ...]`, table `[V, D]`, result float32 `[T, ..., D]`."""
    return F.embedding(ids, table)


def _infer_linear(x: TensorType, weight: TensorType, bias: Any = None, *, activations: str = "float32") -> TensorType:
    require_float("linear", x, weight, bias)
    require(x.streams and len(x.shape) >= 2, f"linear reads values [T, ..., K], got {x}")
    require(not weight.streams and len(weight.shape) == 2, f"linear needs a weight [N, K], got {weight}")
    require(x.shape[-1] == weight.shape[1], f"linear of {x} with a weight {weight}")
    require(bias is None or bias.shape == weight.shape[:1], f"linear needs a bias of {weight.shape[:1]}, got {bias}")
    require(activations in ROUNDINGS, f"linear knows no activations '{activations}'; it knows {', '.join(ROUNDINGS)}")
    return TensorType("float32", (*x.shape[:-1], weight.shape[0]))


@op(_infer_linear, flops=lambda operands, attributes, result: 2 * result.width * int(operands[1].shape[1]))
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activations: str = "float32") -> Tensor:
    """`x @ weight.T + bias`: x `[T, ..., K]`, weight `[N, K]`, bias `[N]`, result `[T, ..., N]`.

    The format of the weight (dense, integer) is the weight's own. With `activations="int8"` each row of x is first rounded to
    whole multiples of (its largest magnitude / 127), with `activations="bfloat16"` each element to the nearest bfloat16, both
    half to even. Sums are of float32, or of whole numbers exactly.
    """
    return F.linear(ROUNDINGS[activations](x), weight, bias)


def quantize_rows(x: Tensor) -> Tensor:
    """Each row (last dimension) rounded to 255 levels, as float: the activations that an int8 product sees."""
    largest = x.abs().amax(-1, keepdim=True)
    scale = largest / 127
    inverse = 127 / largest
    inverse = torch.where(inverse < math.inf, inverse, torch.zeros_like(largest))  # of rows that are zero, or nearly
    return torch.round(x * inverse).clamp(-127, 127) * scale


ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": lambda x: x,
    "int8": quantize_rows,
    "bfloat16": lambda x: x.bfloat16().to(x.dtype),
}
"""By the attribute `activations` of a linear: what its input is rounded to."""


def _infer_matmul(a: TensorType, b: TensorType) -> TensorType:
    require_float("matmul", a, b)
    require(a.streams and b.streams and a.rows == b.rows, f"matmul multiplies values of the same rows, got {a} and {b}")
    require(len(a.shape) >= 3 and len(a.shape) == len(b.shape), f"matmul of {a} and {b}: ranks differ or are below 3")
    require(a.shape[-1] == b.shape[-2], f"matmul of {a} and {b}")
    batch = broadcast_fixed([a.fixed[:-2], b.fixed[:-2]])
    return TensorType("float32", (a.shape[0], *batch, a.shape[-2], b.shape[-1]))


@op(_infer_matmul, flops=lambda operands, attributes, result: 2 * result.width * int(operands[0].shape[-1]))
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Matrix products of the last two fixed dimensions, token by token: `[T, ..., M, K]` by `[T, ..., K, N]`."""
    return torch.matmul(a, b)


def _infer_round(x: TensorType, *, to: str) -> TensorType:
    require_float("round_rows", x)
    require(x.streams and len(x.shape) >= 2, f"round_rows reads values [T, ..., K], got {x}")
    known = [name for name in ROUNDINGS if name != "float32"]
    require(to in known, f"round_rows knows no rounding '{to}'; it knows {', '.join(known)}")
    return x


@op(_infer_round, flops=lambda operands, attributes, result: 3 * result.width)
def round_rows(x: Tensor, *, to: str) -> Tensor:
    """The rows (last dimension) that a linear layer with `activations=to` computes with: x `[T, ..., K]`, still float32.

    Rounding again changes no bit, so a linear layer that rounds may read rows that are rounded.
    """
    return ROUNDINGS[to](x)
