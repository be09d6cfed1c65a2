"""Normalizations, rotary positions and gated activations: what raising passes find in elementwise code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llmc.ir.op import op, require, require_float
from llmc.ir.ops.pointwise import broadcast
from llmc.ir.types import TensorType


def _check_last(x: TensorType, *weights: Any) -> TensorType:
    require_float("a norm", x, *weights)
    require(x.streams and len(x.shape) >= 2, f"a norm reads values [T, ..., D], got {x}")
    for weight in weights:
        fits = weight is None or weight.shape == x.shape[-1:]
        require(fits, f"the weight of a norm over {x} must be [{x.shape[-1]}], got {weight}")
    return x


def _infer_rms(x: TensorType, weight: Any = None, *, eps: float) -> TensorType:
    return _check_last(x, weight)


@op(_infer_rms, flops=lambda operands, attributes, result: 4 * result.width)
def rms_norm(x: Tensor, weight: Tensor | None = None, *, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension (Zhang and Sennrich 2019)."""
    normal = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return normal if weight is None else normal * weight


def _infer_layer(x: TensorType, weight: Any = None, bias: Any = None, *, eps: float) -> TensorType:
    return _check_last(x, weight, bias)


@op(_infer_layer, flops=lambda operands, attributes, result: 7 * result.width)
def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float) -> Tensor:
    """`(x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension (Ba et al. 2016)."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def _infer_rope(x: TensorType, cos: TensorType, sin: TensorType, *, layout: str) -> TensorType:
    require_float("rope", x, cos, sin)
    require(x.streams and len(x.shape) >= 3, f"rope turns heads [T, ..., D], got {x}")
    require(cos == sin and len(cos.shape) == 2 and cos.rows == x.rows, f"rope needs cos and sin [T, pairs], got {cos}, {sin}")
    require(2 * int(cos.shape[1]) <= int(x.shape[-1]), f"rope of {x} by {cos} turns more pairs than there are")
    require(layout in ("halves", "pairs"), f"rope knows no layout '{layout}'")
    return x


@op(_infer_rope, flops=lambda operands, attributes, result: 3 * result.width)
def rope(x: Tensor, cos: Tensor, sin: Tensor, *, layout: str) -> Tensor:
    """Rotary positions (Su et al. 2021): x `[T, ..., D]`, cos and sin `[T, P]`, the first 2P elements of D are turned.

    Element i turns with element i + P (layout "halves"), or 2i with 2i + 1 ("pairs").
    """
    pairs = cos.shape[-1]
    shape = (x.shape[0], *[1] * (x.ndim - 2), pairs)
    cos, sin = cos.reshape(shape), sin.reshape(shape)
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    if layout == "halves":
        a, b = turned[..., :pairs], turned[..., pairs:]
        done = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    else:
        a, b = turned[..., 0::2], turned[..., 1::2]
        done = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    return torch.cat((done, rest), -1)


ACTIVATIONS = ("silu", "relu", "gelu", "gelu_tanh", "sigmoid", "tanh")


def _infer_gated(gate: TensorType, up: TensorType, *, activation: str) -> TensorType:
    require(activation in ACTIVATIONS, f"gated knows no activation '{activation}'; known: {', '.join(ACTIVATIONS)}")
    require_float("gated", gate, up)
    return TensorType("float32", broadcast((gate, up)))


@op(_infer_gated, flops=lambda operands, attributes, result: 6 * result.width)
def gated(gate: Tensor, up: Tensor, *, activation: str) -> Tensor:
    """`activation(gate) * up`, the gated linear units of Shazeer (2020)."""
    if activation == "gelu_tanh":
        return F.gelu(gate, approximate="tanh") * up
    functions: dict[str, Any] = {"silu": F.silu, "relu": F.relu, "gelu": F.gelu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}
    return functions[activation](gate) * up
