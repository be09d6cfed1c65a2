"""Ops that rearrange the fixed dimensions of a value and compute nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmc.ir.op import op, require
from llmc.ir.ops.pointwise import broadcast_fixed
from llmc.ir.ops.reductions import check_dims
from llmc.ir.types import TensorType


def _free(operands: object, attributes: object, result: object) -> int:
    return 0


def _infer_reshape(x: TensorType, *, shape: tuple[int, ...]) -> TensorType:
    require(all(size > 0 for size in shape), f"reshape needs sizes above zero, got {shape}")
    require(math.prod(shape) == x.width, f"reshape of {x} to {shape} changes the number of elements")
    return x.with_fixed(shape)


@op(_infer_reshape, flops=_free)
def reshape(x: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    """The same elements in order, with the fixed dimensions `shape` after the tokens."""
    return x.reshape(x.shape[0], *shape)


def _infer_permute(x: TensorType, *, dims: tuple[int, ...]) -> TensorType:
    require(sorted(dims) == list(range(1, len(x.shape))), f"permute of {x} must name each fixed dimension once, got {dims}")
    return x.with_fixed(tuple(int(x.shape[dim]) for dim in dims))


@op(_infer_permute, flops=_free)
def permute(x: Tensor, *, dims: tuple[int, ...]) -> Tensor:
    """Fixed dimensions in another order; dimension 0, the tokens, stays first."""
    return x.permute(0, *dims)


def _infer_slice(x: TensorType, *, dim: int, start: int, stop: int, step: int = 1) -> TensorType:
    check_dims(x, (dim,))
    size = int(x.shape[dim])
    require(0 <= start < stop <= size and step > 0, f"slice {start}:{stop}:{step} does not fit dimension {dim} of {x}")
    shape = list(x.shape)
    shape[dim] = len(range(start, stop, step))
    return TensorType(x.dtype, tuple(shape))


@op(_infer_slice, flops=_free)
def slice_(x: Tensor, *, dim: int, start: int, stop: int, step: int = 1) -> Tensor:
    """Elements start, start + step, ... below stop of one fixed dimension."""
    index = [slice(None)] * x.ndim
    index[dim] = slice(start, stop, step)
    return x[tuple(index)]


def _infer_concat(*xs: TensorType, dim: int) -> TensorType:
    require(len(xs) > 0, "concat needs at least one operand")
    first = xs[0]
    check_dims(first, (dim,))
    for x in xs[1:]:
        same = len(x.shape) == len(first.shape) and x.dtype == first.dtype
        others = same and all(a == b for i, (a, b) in enumerate(zip(x.shape, first.shape, strict=True)) if i != dim)
        require(same and others, f"concat of {first} and {x} along dimension {dim}")
    shape = list(first.shape)
    shape[dim] = sum(int(x.shape[dim]) for x in xs)
    return TensorType(first.dtype, tuple(shape))


@op(_infer_concat, flops=_free)
def concat(*xs: Tensor, dim: int) -> Tensor:
    """Values one after another along one fixed dimension."""
    return torch.cat(xs, dim)


def _infer_expand(x: TensorType, *, shape: tuple[int, ...]) -> TensorType:
    require(all(size > 0 for size in shape), f"expand needs sizes above zero, got {shape}")
    require(len(shape) == len(x.fixed), f"expand of {x} to {shape} changes the rank")
    require(broadcast_fixed([x.fixed, shape]) == shape, f"expand of {x} to {shape}")
    return x.with_fixed(shape)


@op(_infer_expand, flops=_free)
def expand(x: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    """Fixed dimensions of size one repeated to the sizes of `shape`."""
    return x.expand(x.shape[0], *shape)


def _infer_select(x: TensorType) -> TensorType:
    require(x.rows == "T", f"select_rows takes one entry a token, got {x}")
    return TensorType(x.dtype, ("R", *x.shape[1:]))


@op(_infer_select, flops=_free)
def select_rows(x: Tensor, *, context: object = None) -> Tensor:
    """The entries of the rows of output that were asked for: `[T, ...]` to `[R, ...]`; all of them without a context."""
    rows = getattr(context, "out_rows", None)
    return x if rows is None else x[rows]
