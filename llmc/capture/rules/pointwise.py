"""Elementwise ops, and those that do nothing to a value."""

from __future__ import annotations

from typing import Any

import torch

from llmc.capture.axes import Builder, broadcast_layout, paired
from llmc.capture.biases import truncated
from llmc.capture.rules import rule
from llmc.capture.scores import ARITHMETIC, as_condition, simplify, whole
from llmc.capture.values import Const, Count, Probabilities, Refusal, Scores, Stream, Table, Value
from llmc.ir import ops
from llmc.ir.op import Op
from llmc.ir.program import type_of
from llmc.ir.score import FUNCTIONS, ScoreExpr, apply, const

DIRECT: dict[str, Op] = {
    "add": ops.add, "sub": ops.sub, "mul": ops.mul, "div": ops.div, "pow": ops.pow_, "maximum": ops.maximum,
    "minimum": ops.minimum, "eq": ops.eq, "ne": ops.ne, "lt": ops.lt, "le": ops.le, "gt": ops.gt, "ge": ops.ge,
    "neg": ops.neg, "abs": ops.abs_, "exp": ops.exp, "log": ops.log, "sqrt": ops.sqrt, "rsqrt": ops.rsqrt, "sin": ops.sin,
    "cos": ops.cos, "tanh": ops.tanh, "erf": ops.erf, "sigmoid": ops.sigmoid, "relu": ops.relu, "silu": ops.silu,
    "logical_and": ops.logical_and, "logical_or": ops.logical_or, "logical_not": ops.logical_not,
}  # fmt: skip
"""Ops with the same meaning in aten and in the dialect."""

OF_BOOLEANS = {"mul": ops.logical_and, "add": ops.logical_or}
"""What arithmetic on two conditions means."""

COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not")


def elementwise(b: Builder, op: Op, *operands: Any, **attributes: Any) -> Value:
    """An elementwise op on whatever its operands are."""
    values = [b.resolve(v) if isinstance(v, Table) else v for v in operands]
    if any(isinstance(v, Count) for v in values):
        return on_count(b, op, values)
    if any(isinstance(v, Probabilities) for v in values):
        raise Refusal("attention weights are changed after the softmax")
    if op.name in FUNCTIONS and any(isinstance(v, Scores) for v in values):
        values = sloped(b, values)
    relating = [v for v in values if isinstance(v, Scores)]
    streams = [v for v in values if isinstance(v, Stream)]
    vectors = [v for v in values if isinstance(v, Const) and v.number() is None]
    if relating and not streams and not vectors and op.name in FUNCTIONS:
        return on_scores(op, values)
    if any(v.pairwise for v in relating):
        raise Refusal("scores meet values that are neither numbers nor positions")
    values = [b.stream(v) if isinstance(v, Scores) and v.expr.kind != "const" else v for v in values]
    fitted, layout = b.aligned(values)
    node, sizes = b.node(op, *fitted, **attributes), tuple(dim.size for dim in layout if dim.label == "fixed")
    if not type_of(node).streams:
        raise Refusal("a weight meets a tensor of one number, as long as the sequence, in place of a value of each token")
    return Stream(layout, node if type_of(node).fixed == sizes else b.node(ops.expand, node, shape=sizes))


def on_count(b: Builder, op: Op, values: list[Any]) -> Value:
    """The number of tokens of a sequence is what a sum over them is divided by, which is their mean, and nothing else."""
    first, second = values if len(values) == 2 else (values[0], None)
    if op is ops.maximum and isinstance(first, Count) and isinstance(second, int | float) and second <= 1:
        return first
    summed = isinstance(first, Stream) and first.node.target is ops.pool and first.node.kwargs["how"] == "sum"
    fits = summed and isinstance(second, Count) and broadcast_layout([first.layout, second.layout]) == first.layout
    if op is ops.div and fits:
        return Stream(first.layout, b.node(ops.pool, first.node.args[0], how="mean"))
    raise Refusal("it mixes positions: the length of the sequence enters the computation other than by a mean over tokens")


def sloped(b: Builder, values: list[Any]) -> list[Any]:
    """Operands of a function of positions or scores; constants with one number for each head become expressions of the head.

    They stay as they are if values of the sequence take part, or if more than one dimension has numbers of its own.
    """
    vectors = [v for v in values if isinstance(v, Const) and v.number() is None]
    if not vectors or any(isinstance(v, Stream) for v in values):
        return values
    if not all(v.real and dtype_name(v) == "float32" and sum(dim.size > 1 for dim in v.layout) == 1 for v in vectors):
        return values
    relating = [v for v in values if isinstance(v, Scores)]
    layout = broadcast_layout([v.layout for v in (*vectors, *paired(relating))])
    if all(v.expr.kind == "const" for v in relating) or (
        sum(dim.size > 1 for dim in layout) > 1 and not any(v.pairwise for v in relating)
    ):
        return values
    made = {id(v): Scores(v.layout, b.slopes(v), "float32") for v in vectors}
    return [made.get(id(v), v) for v in values]


def on_scores(op: Op, values: list[Any]) -> Scores:
    """An op on scores, positions and numbers."""
    values = paired(values)
    sources = {id(v.source): v.source for v in values if isinstance(v, Scores) and v.source is not None}
    if len(sources) > 1:
        raise Refusal("products of different queries and keys are combined")
    layout = broadcast_layout([v.layout for v in values if isinstance(v, Value)])
    args = [expression(v) for v in values]
    if op.name in OF_BOOLEANS and all(dtype_of(v) == "bool" for v in values):
        op = OF_BOOLEANS[op.name]
    elif op.name in ARITHMETIC:
        kinds = map(dtype_of, values)
        args = [apply("where", a, const(1), const(0)) if kind == "bool" else a for a, kind in zip(args, kinds, strict=True)]
    if op.name in ("where", "logical_and", "logical_or", "logical_not"):
        count = 1 if op.name == "where" else len(args)
        args[:count] = [as_condition(arg, dtype_of(v)) for arg, v in zip(args[:count], values, strict=False)]
    dtypes = [dtype_of(v) for v in (values[1:] if op.name == "where" else values)]
    dtype = "bool" if op.name in COMPARISONS else max(dtypes, key=("bool", "int64", "float32").index)
    if op.name in ("div", "exp", "log", "tanh"):
        dtype = "float32"
    return Scores(layout, simplify(apply(op.name, *args)), dtype, next(iter(sources.values()), None))


def expression(value: Any) -> ScoreExpr:
    if isinstance(value, Scores):
        return value.expr
    return const(value.number() if isinstance(value, Const) else value)  # type: ignore[arg-type]


def dtype_of(value: Any) -> str:
    if isinstance(value, Value) and not isinstance(value, Const):
        return dtype_name(value)
    number = value.number() if isinstance(value, Const) else value
    if isinstance(value, Const) and number is None:
        return dtype_name(value)
    return "bool" if isinstance(number, bool) else "int64" if isinstance(number, int) else "float32"


def _direct(op: Op) -> Any:
    return lambda b, *operands, **ignored: elementwise(b, op, *operands)


for _name, _op in DIRECT.items():
    rule(_name)(_direct(_op))


@rule("eq", "ne")
def _equal(b: Builder, x: Any, y: Any, *, name: str) -> Value:
    of_ids = isinstance(x, Stream) and x.node.op == "placeholder" and x.node.target == "input_ids"
    if of_ids and b.padding is not None and y == b.padding:  # batches have no padding, and no sequence may hold this id
        b.excluded = b.padding
        return Scores(x.layout, const(name == "ne"), "bool")
    return elementwise(b, DIRECT[name], x, y)


@rule("add", "sub")
def _scaled(b: Builder, x: Any, y: Any, alpha: Any = 1, *, name: str) -> Value:
    y = y if alpha == 1 else elementwise(b, ops.mul, y, alpha)
    return elementwise(b, DIRECT[name], x, y)


@rule("div")
def _div(b: Builder, x: Any, y: Any, rounding_mode: str | None = None) -> Value:
    if rounding_mode is not None:
        raise Refusal("division with rounding")
    return elementwise(b, ops.div, x, y)


@rule("rsub")
def _rsub(b: Builder, x: Any, y: Any, alpha: Any = 1) -> Value:
    return elementwise(b, ops.sub, y, x if alpha == 1 else elementwise(b, ops.mul, x, alpha))


@rule("bitwise_and", "bitwise_or", "bitwise_not", "__and__", "__or__")
def _bitwise(b: Builder, *operands: Any, name: str) -> Value:
    op = {"and": ops.logical_and, "or": ops.logical_or, "not": ops.logical_not}[name.strip("_").removeprefix("bitwise_")]
    for operand in operands:
        if isinstance(operand, Value) and dtype_name(operand) != "bool":
            raise Refusal("bitwise arithmetic on integers")
    return elementwise(b, op, *operands)


def dtype_name(value: Any) -> str:
    """dtype of any value."""
    if isinstance(value, Const):
        dtype = value.weight.type.dtype
        return "float32" if dtype in ("float16", "bfloat16") else dtype
    if isinstance(value, Table):
        return value.base.weight.type.dtype
    return "float32" if isinstance(value, Probabilities) else value.dtype


@rule("square")
def _square(b: Builder, x: Any) -> Value:
    return elementwise(b, ops.mul, x, x)


@rule("log1p")
def _log1p(b: Builder, x: Any) -> Value:
    return elementwise(b, ops.log, elementwise(b, ops.add, x, 1.0))


@rule("expm1")
def _expm1(b: Builder, x: Any) -> Value:
    return elementwise(b, ops.sub, elementwise(b, ops.exp, x), 1.0)


@rule("reciprocal")
def _reciprocal(b: Builder, x: Any) -> Value:
    return elementwise(b, ops.div, 1.0, x)


@rule("gelu")
def _gelu(b: Builder, x: Any, *, approximate: str = "none") -> Value:
    return elementwise(b, ops.gelu, b.stream(x), approximate=approximate)


@rule("clamp", "clamp_min", "clamp_max")
def _clamp(b: Builder, x: Any, low: Any = None, high: Any = None, *, name: str, min: Any = None, max: Any = None) -> Value:
    low, high = (None, low) if name == "clamp_max" else (low, high)
    low, high = low if min is None else min, high if max is None else max
    x = x if low is None else elementwise(b, ops.maximum, x, low)
    return x if high is None else elementwise(b, ops.minimum, x, high)


@rule("where")
def _where(b: Builder, condition: Any, x: Any = 0, y: Any = 0) -> Value:
    if isinstance(condition, Const) and condition.number() is not None:
        chosen, other = (x, y) if condition.number() else (y, x)
        layouts = [v.layout for v in (condition, chosen, other) if isinstance(v, Value)]
        if isinstance(chosen, Value) and broadcast_layout(layouts) == chosen.layout:
            widest = max(map(dtype_of, (chosen, other)), key=("bool", "int64", "float32").index)
            return converted(b, chosen, getattr(torch, widest))
        raise Refusal("a choice between values of different shapes that is always the same")
    return elementwise(b, ops.where, condition, x, y)


@rule("masked_fill")
def _masked_fill(b: Builder, x: Any, mask: Any, value: Any) -> Value:
    return elementwise(b, ops.where, mask, value, x)


@rule("dropout", "native_dropout", "feature_dropout")
def _dropout(b: Builder, x: Any, p: float = 0.0, train: bool = False) -> Value:
    if train:
        raise Refusal("dropout in training mode; call module.eval() first")
    return x


@rule("clone", "contiguous", "detach", "alias", "lift_fresh_copy", "lift_fresh", "_conj", "positive")
def _same(b: Builder, x: Any, **ignored: Any) -> Value:
    return x


NAMES = {torch.bool: "bool", **dict.fromkeys((torch.float32, torch.float64, torch.float16, torch.bfloat16), "float32"),
         torch.int64: "int64", torch.int32: "int64"}  # fmt: skip
"""The dialect's dtype for each of torch's that computes alike, but for rounding; narrower integers wrap around."""


def name_of(dtype: torch.dtype) -> str:
    """The dialect's name of a dtype. Raises Refusal if it has none."""
    if dtype not in NAMES:
        raise Refusal(f"values of dtype {str(dtype).removeprefix('torch.')}")
    return NAMES[dtype]


def converted(b: Builder, x: Any, dtype: torch.dtype | None) -> Value:
    """A value in another dtype; all floats are float32."""
    if dtype is None:
        return x
    name = name_of(dtype)
    x = b.resolve(x) if isinstance(x, Table) else x
    if isinstance(x, Probabilities) or dtype_name(x) == name:
        return x
    if isinstance(x, Count):
        return Count(x.layout, name)
    if isinstance(x, Scores):
        if name == "bool":
            return Scores(x.layout, as_condition(x.expr, x.dtype), name, x.source)
        if x.dtype == "bool":
            one, zero = (const(1.0), const(0.0)) if name == "float32" else (const(1), const(0))
            return Scores(x.layout, simplify(apply("where", x.expr, one, zero)), name, x.source)
        if name == "int64":
            expr = whole(x.expr)
            if expr is None and x.source is not None:
                raise Refusal("scores are made whole numbers")
            if expr is None and x.pairwise:
                return truncated(x)
            if expr is not None:
                return Scores(x.layout, expr, name)
            return Stream(x.layout, b.node(ops.cast, b.stream(x).node, dtype=name))
        return Scores(x.layout, x.expr, name, x.source)
    if name == "bool":
        return elementwise(b, ops.ne, x, 0)
    return Stream(x.layout, b.node(ops.cast, b.stream(x).node, dtype=name))


@rule("_to_copy", "to", "type_as")
def _to(b: Builder, x: Any, *args: Any, dtype: torch.dtype | None = None, **ignored: Any) -> Value:
    found = dtype or next((a for a in args if isinstance(a, torch.dtype)), None)
    other = next((a for a in args if isinstance(a, Value)), None)
    if found is None and other is not None:
        found = getattr(torch, dtype_name(other))
    return converted(b, x, found)
