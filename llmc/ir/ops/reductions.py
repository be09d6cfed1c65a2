"""Reductions over fixed dimensions. Dimension 0 of a value is its tokens and cannot be reduced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llmc.ir.op import Op, op, require, require_float
from llmc.ir.types import TensorType


def check_dims(x: TensorType, dims: tuple[int, ...]) -> None:
    """Refuse dimensions that are out of range or that are the token dimension."""
    first = 1 if x.streams else 0
    require(bool(dims) and len(set(dims)) == len(dims), f"dimensions {dims} are empty or repeated")
    for dim in dims:
        require(first <= dim < len(x.shape), f"dimension {dim} of {x} is out of range or mixes tokens")


def _infer(x: TensorType, *, dims: tuple[int, ...], keepdim: bool) -> TensorType:
    check_dims(x, dims)
    sizes = enumerate(x.shape)
    shape = tuple(1 if i in dims else size for i, size in sizes if keepdim or i not in dims)
    return TensorType(x.dtype, shape)


def _infer_sum(x: TensorType, *, dims: tuple[int, ...], keepdim: bool) -> TensorType:
    result = _infer(x, dims=dims, keepdim=keepdim)
    return TensorType("int64" if x.dtype == "bool" else x.dtype, result.shape)  # trues are counted


def _infer_mean(x: TensorType, *, dims: tuple[int, ...], keepdim: bool) -> TensorType:
    require_float("mean", x)
    return _infer(x, dims=dims, keepdim=keepdim)


def _reduction(name: str, function: Callable[..., Any], infer: Callable[..., TensorType] = _infer) -> Op:
    def reference(x: Tensor, *, dims: tuple[int, ...], keepdim: bool) -> Tensor:
        return function(x, dim=dims, keepdim=keepdim)

    reference.__name__ = name
    reference.__doc__ = f"`{name}` over the fixed dimensions `dims`."
    return op(infer, flops=lambda operands, attributes, result: operands[0].width)(reference)


sum_ = _reduction("sum", torch.sum, _infer_sum)
mean = _reduction("mean", torch.mean, _infer_mean)
amax = _reduction("amax", torch.amax)
amin = _reduction("amin", torch.amin)

REDUCTIONS: dict[str, Op] = {o.name: o for o in (sum_, mean, amax, amin)}


def _infer_softmax(x: TensorType, *, dim: int) -> TensorType:
    check_dims(x, (dim,))
    require_float("softmax", x)
    return x


@op(_infer_softmax, flops=lambda operands, attributes, result: 7 * result.width)
def softmax(x: Tensor, *, dim: int) -> Tensor:
    """Exponentials divided by their sum along one fixed dimension."""
    return torch.softmax(x, dim)
