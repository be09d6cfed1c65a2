"""Values made from nothing: positions, and tables over positions filled with one number."""

from __future__ import annotations

from typing import Any

import torch

from llmc.capture.axes import Builder, triangle
from llmc.capture.rules import rule
from llmc.capture.rules.pointwise import dtype_name, elementwise, name_of
from llmc.capture.scores import simplify
from llmc.capture.values import (
    KEY,
    ONE,
    TOKEN,
    Layout,
    Length,
    Refusal,
    S,
    Scores,
    Size,
    Table,
    Value,
    const,
    fixed,
    normal,
    positions,
)
from llmc.ir import ops
from llmc.ir.score import Q, apply
from llmc.ir.score import const as number
from llmc.ir.weights import Stored


@rule("arange")
def _arange(b: Builder, *bounds: Size, dtype: Any = None, **ignored: Any) -> Value:
    start, stop, step = (0, *bounds, 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    if all(isinstance(bound, int | float) for bound in (start, stop, step)):
        return const(Stored(torch.arange(start, stop, step, dtype=dtype)), "arange", True)  # type: ignore[arg-type]
    if step != 1 or Length.of(stop).scale != 1 or Length.of(start).scale or Length.of(stop).offset != Length.of(start).offset:
        raise Refusal("an arange over something else than the positions of the sequence")
    made: Value = positions()
    if start:
        made = elementwise(b, ops.add, made, start)
    if dtype is not None and dtype.is_floating_point:
        made = Scores(made.layout, made.expr, "float32")  # type: ignore[attr-defined]
    return made


def filled(sizes: list[Size], value: Any, dtype: torch.dtype | None) -> Value:
    """A tensor of one number. Of two dimensions as long as the sequence the first is the queries'; the number is the same."""
    if any(isinstance(size, Length) and size != S for size in sizes) or sizes.count(S) > 2:
        raise Refusal("a tensor whose size depends on the length of the sequence in an unknown way")
    labels = iter((TOKEN, KEY))
    layout = [next(labels) if size == S else ONE if size == 1 else fixed(int(size)) for size in sizes]  # type: ignore[arg-type]
    return of_one_number(tuple(layout), value, dtype)


def of_one_number(layout: Layout, value: Any, dtype: torch.dtype | None) -> Value:
    """A tensor of one number: a constant, or an expression that is the same at all positions."""
    name = "float32" if dtype is None else name_of(dtype)
    value = {"bool": bool, "int64": int, "float32": float}[name](value)
    if all(dim.label not in ("token", "key") for dim in layout):
        return const(Stored(torch.full([dim.size for dim in layout], value)), "filled", True)
    return Scores(layout, number(value), name)


@rule("full", "ones", "zeros", "scalar_tensor")
def _full(b: Builder, sizes: Any, value: Any = None, *, name: str, dtype: Any = None, **ignored: Any) -> Value:
    if name == "scalar_tensor":
        sizes, value = [], sizes
    if isinstance(value, Length):
        raise Refusal("it mixes positions: the length of the sequence, known only at its end, enters the computation")
    if value is None:
        value = 1 if name == "ones" else 0
    if dtype is None:
        dtype = torch.float32 if name in ("ones", "zeros") or isinstance(value, float) else torch.tensor(value).dtype
    return filled(list(sizes), value, dtype)


@rule("full_like", "ones_like", "zeros_like", "new_ones", "new_zeros", "new_full")
def _like(b: Builder, x: Any, *args: Any, name: str, dtype: Any = None, **ignored: Any) -> Value:
    value = args[-1] if name in ("full_like", "new_full") else 1 if "ones" in name else 0
    dtype = dtype or getattr(torch, dtype_name(x))
    return of_one_number(x.layout, value, dtype) if name.endswith("_like") else filled(list(args[0]), value, dtype)


@rule("tril", "triu")
def _triangle(b: Builder, x: Any, diagonal: int = 0, *, name: str) -> Value:
    if isinstance(x, Table):
        x = b.resolve(x)
    if not isinstance(x, Scores):
        raise Refusal(f"{name} of something else than a table over (query, key)")
    return triangle(x, name == "triu", diagonal)


@rule("cumsum")
def _cumsum(b: Builder, x: Any, dim: int, *, dtype: Any = None) -> Value:
    """The sum of one number over a position and all before it, which is how positions are counted from masks."""
    if not isinstance(x, Scores) or x.expr.kind != "const" or x.layout[normal(dim, len(x.layout))] != TOKEN:
        raise Refusal("it mixes positions: a sum over the positions before")
    value = x.expr.value
    kind = name_of(dtype) if dtype else "float32" if isinstance(value, float) else "int64"
    counted = apply("mul", apply("add", Q, number(1)), number(float(value) if kind == "float32" else int(value)))  # type: ignore[arg-type]
    return Scores(x.layout, simplify(counted), kind)


@rule("sym_size")
def _size(b: Builder, x: Any, dim: int) -> Size:
    return x.sizes[dim]
