"""Elementwise ops. Operands are values of equal rank, weights (aligned at the last dimension) and, where two meet, numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llmc.ir.op import Op, op, require, require_float
from llmc.ir.types import DTYPES, TensorType


def broadcast(operands: tuple[Any, ...]) -> tuple[int | str, ...]:
    """Shape of an elementwise result.

    Values that stream must have the same rows and rank; weights align with their last dimensions. Dimensions of size one
    stretch. Nothing ever aligns with the token dimension but a token dimension.
    """
    types = [operand for operand in operands if isinstance(operand, TensorType)]
    require(bool(types), "an elementwise op needs at least one operand that is no number")
    streaming = [t for t in types if t.streams]
    if streaming:
        require(len({t.rows for t in streaming}) == 1, f"token rows and requested rows meet: {', '.join(map(str, types))}")
        require(len({len(t.shape) for t in streaming}) == 1, f"ranks differ: {', '.join(map(str, types))}")
        limit = len(streaming[0].fixed)
        require(all(len(t.fixed) <= limit for t in types), f"a weight has too many dimensions: {', '.join(map(str, types))}")
    shape = broadcast_fixed([t.fixed for t in types])
    return (streaming[0].shape[0], *shape) if streaming else shape


def broadcast_fixed(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The common shape of shapes aligned at their last dimension. Raises VerificationError if there is none."""
    try:
        return tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        require(False, f"shapes {', '.join(map(str, shapes))} do not broadcast")
        raise


def promote(operands: tuple[Any, ...]) -> str:
    """The widest dtype among the operands: bool, then int64, then float32."""
    order = ("bool", "int64", "float32")
    kinds = [o.dtype if isinstance(o, TensorType) else _number_dtype(o) for o in operands]
    return max(kinds, key=order.index)


def _number_dtype(value: Any) -> str:
    return "bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "float32"


def as_result(dtype: str | None) -> Callable[..., TensorType]:
    """Type rule of an elementwise op whose result is of `dtype`, or of the widest operand's if None."""

    def infer(*operands: Any) -> TensorType:
        return TensorType(dtype or promote(operands), broadcast(operands))

    return infer


def numeric(name: str) -> Callable[..., TensorType]:
    """Type rule of an elementwise op on numbers, none of them bool, whose result is of the widest operand's dtype."""

    def infer(*operands: Any) -> TensorType:
        kinds = {operand.dtype if isinstance(operand, TensorType) else _number_dtype(operand) for operand in operands}
        require("bool" not in kinds, f"{name} computes with numbers, got bool; cast it first")
        return as_result(None)(*operands)

    return infer


def _unary(name: str, function: Callable[[Tensor], Tensor], cost: int = 1) -> Op:
    def reference(x: Tensor) -> Tensor:
        return function(x)

    reference.__name__ = name
    reference.__doc__ = f"`{name}` of each element."
    infer = numeric(name) if name in ("neg", "abs", "relu") else as_result("float32")
    return op(infer, flops=lambda operands, attributes, result: cost * result.width)(reference)


def _binary(name: str, function: Callable[..., Tensor], infer: Callable[..., TensorType], commutative: bool = False) -> Op:
    def reference(a: Tensor | float, b: Tensor | float) -> Tensor:
        if not isinstance(a, Tensor):
            a = torch.tensor(a, dtype=_scalar_dtype(a, b))
        elif not isinstance(b, Tensor):
            b = torch.tensor(b, dtype=_scalar_dtype(b, a))
        return function(a, b)

    reference.__name__ = name
    reference.__doc__ = f"`{name}` of two elements."
    return op(infer, commutative=commutative)(reference)


def _scalar_dtype(value: Any, other: Any) -> torch.dtype:
    """A number takes the precision of the tensor it meets, so that float64 runs stay float64."""
    if isinstance(value, float):
        return other.dtype if other.is_floating_point() else torch.float32
    return torch.bool if isinstance(value, bool) else other.dtype if other.dtype != torch.bool else torch.int64


neg = _unary("neg", torch.neg)
abs_ = _unary("abs", torch.abs)
exp = _unary("exp", torch.exp, 4)
log = _unary("log", torch.log, 4)
sqrt = _unary("sqrt", torch.sqrt)
rsqrt = _unary("rsqrt", torch.rsqrt, 2)
sin = _unary("sin", torch.sin, 4)
cos = _unary("cos", torch.cos, 4)
tanh = _unary("tanh", torch.tanh, 4)
erf = _unary("erf", torch.erf, 4)
sigmoid = _unary("sigmoid", torch.sigmoid, 4)
relu = _unary("relu", torch.relu)


def _infer_silu(x: TensorType) -> TensorType:
    require_float("silu", x)
    return TensorType("float32", broadcast((x,)))


@op(_infer_silu, flops=lambda operands, attributes, result: 5 * result.width)
def silu(x: Tensor) -> Tensor:
    """`x * sigmoid(x)` of each element (Elfwing et al. 2017)."""
    return F.silu(x)


WIDEST, FLOAT, BOOL = as_result(None), as_result("float32"), as_result("bool")

add = _binary("add", torch.add, WIDEST, commutative=True)
sub = _binary("sub", torch.sub, numeric("sub"))
mul = _binary("mul", torch.mul, WIDEST, commutative=True)
div = _binary("div", torch.div, FLOAT)
pow_ = _binary("pow", torch.pow, numeric("pow"))
maximum = _binary("maximum", torch.maximum, WIDEST, commutative=True)
minimum = _binary("minimum", torch.minimum, WIDEST, commutative=True)
eq = _binary("eq", torch.eq, BOOL, commutative=True)
ne = _binary("ne", torch.ne, BOOL, commutative=True)
lt = _binary("lt", torch.lt, BOOL)
le = _binary("le", torch.le, BOOL)
gt = _binary("gt", torch.gt, BOOL)
ge = _binary("ge", torch.ge, BOOL)
logical_and = _binary("logical_and", torch.logical_and, BOOL, commutative=True)
logical_or = _binary("logical_or", torch.logical_or, BOOL, commutative=True)


@op(BOOL)
def logical_not(x: Tensor) -> Tensor:
    """Whether each element is zero or false."""
    return torch.logical_not(x)


def _infer_gelu(x: Any, *, approximate: str) -> TensorType:
    require(approximate in ("none", "tanh"), f"gelu knows no approximation '{approximate}'")
    require_float("gelu", x)
    return TensorType("float32", broadcast((x,)))


@op(_infer_gelu, flops=lambda operands, attributes, result: 8 * result.width)
def gelu(x: Tensor, *, approximate: str) -> Tensor:
    """Gaussian error linear unit (Hendrycks and Gimpel 2016), exact ("none") or by its tanh formula ("tanh")."""
    return F.gelu(x, approximate=approximate)


def _infer_where(condition: TensorType, a: Any, b: Any) -> TensorType:
    require(condition.dtype == "bool", f"where needs a condition of dtype bool, got {condition}")
    return TensorType(promote((a, b)), broadcast((condition, a, b)))


@op(_infer_where)
def where(condition: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """`a` where the condition holds, else `b`."""
    return torch.where(condition, a, b)


def _infer_cast(x: TensorType, *, dtype: str) -> TensorType:
    require(dtype in DTYPES, f"values cannot be of dtype '{dtype}'")
    return TensorType(dtype, x.shape)


@op(_infer_cast)
def cast(x: Tensor, *, dtype: str) -> Tensor:
    """The same values in another dtype; float to int truncates towards zero."""
    if dtype == "float32":  # a float64 run stays float64
        return x if x.is_floating_point() else x.to(torch.get_default_dtype())
    return x.to(getattr(torch, dtype))


UNARY: dict[str, Op] = {o.name: o for o in (neg, abs_, exp, log, sqrt, rsqrt, sin, cos, tanh, erf, sigmoid, relu, silu)}
BINARY: dict[str, Op] = {
    o.name: o for o in (add, sub, mul, div, pow_, maximum, minimum, eq, ne, lt, le, gt, ge, logical_and, logical_or)
}
