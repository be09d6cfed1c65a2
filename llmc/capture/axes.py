"""Building the program while labels are propagated: alignment of layouts, and what constants and positions turn into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from llmc.capture.scores import contains_kind, move_to_keys, simplify
from llmc.capture.tables import table_expression
from llmc.capture.values import (
    KEY,
    ONE,
    TOKEN,
    Const,
    Dim,
    Layout,
    Probabilities,
    Refusal,
    Scores,
    Stream,
    Table,
    Value,
    const,
    fixed,
    index_of,
)
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.op import OPS, Op
from llmc.ir.program import type_of
from llmc.ir.score import CAUSAL, K, Q, ScoreContext, ScoreExpr, apply, per_head
from llmc.ir.score import const as number
from llmc.ir.weights import Computed, Stored, Weight


class Builder:
    """The program under construction, and the constants already in it.

    whole: sequences may be read as a whole (`Program.whole_sequences`). padding: an id that stands for no token; `excluded`
    becomes it where the program holds only for sequences without it. longest: positions that a table by positions has
    numbers for; `biases` are the tables and indices of those that were met.
    """

    def __init__(self, whole: bool = False, padding: int | None = None) -> None:
        self.editor, self.whole, self.padding = Editor(), whole, padding
        self.excluded: int | None = None
        self.longest: int | None = None
        self.biases: list[tuple[Const, ScoreExpr]] = []
        self._weight_nodes: dict[Weight, Node] = {}
        self._position_nodes: dict[tuple[ScoreExpr, Layout, str], Node] = {}
        self._slopes: dict[ScoreExpr, Const] = {}

    def node(self, op: Op, *operands: Any, **attributes: Any) -> Node:
        """A node of the program."""
        return self.editor.op(op, *operands, **attributes)

    def weight_node(self, value: Const) -> Node:
        """The node of a constant."""
        if value.weight not in self._weight_nodes:
            self._weight_nodes[value.weight] = self.editor.weight(value.weight, value.name)
        return self._weight_nodes[value.weight]

    def reshaped(self, node: Node, sizes: tuple[int, ...]) -> Node:
        """A node with other fixed dimensions."""
        return node if type_of(node).fixed == sizes else self.node(ops.reshape, node, shape=sizes)

    def stream(self, value: Any) -> Stream:
        """Tables and positions as computed values. Raises Refusal for what is none."""
        if isinstance(value, Stream):
            return value
        if isinstance(value, Table):
            value = self.resolve(value)
        if isinstance(value, Stream):
            return value
        if isinstance(value, Scores) and not value.pairwise and index_of(value.layout, "token") is not None:
            node = self.position_node(value.expr, value.layout, value.dtype)
            sizes = tuple(dim.size for dim in value.layout if dim.label == "fixed")
            return Stream(value.layout, node if set(sizes) <= {1} else self.node(ops.expand, node, shape=sizes))
        relates = isinstance(value, Probabilities) or (isinstance(value, Scores) and value.pairwise)
        raise Refusal("it mixes positions: scores of pairs of positions are used as if they were values of one token"
                      if relates else "a constant is used where a value of each token is needed")  # fmt: skip

    def same_at_all_positions(self, table: Any, place: int, index: Any) -> int | float | bool | None:
        """The only number that a constant holds, looked up along a dimension by the position, or a number after it; None if
        there are others, or if it is looked up by something else. The sequence is no longer than the dimension allows."""
        found = self.resolve(index) if isinstance(index, Table) else index
        ahead = after_position(found.expr) if isinstance(found, Scores) else None
        if ahead is None or not isinstance(table, Const) or not table.real:
            return None
        numbers, rows = table.tensor().unique(), table.shape[place] - ahead
        if numbers.numel() != 1 or rows < 1:
            return None
        self.longest = min(self.longest or rows, rows)
        return numbers.item()

    def slopes(self, value: Const) -> ScoreExpr:
        """A constant with one number for each head as an expression of the head."""
        expr = per_head(value.tensor().flatten().tolist())
        self._slopes[expr] = value
        return expr

    def position_node(self, expr: ScoreExpr, layout: Layout, dtype: str) -> Node:
        """An expression of the position as a computed value, with all fixed dimensions of a layout but those repeated."""
        key = (expr, layout, dtype)
        if key not in self._position_nodes:
            node = self._position(expr, layout, contains_kind(expr, "per_head"))
            if not isinstance(node, Node):
                raise Refusal("a constant for each position")
            if type_of(node).dtype != dtype:
                node = self.node(ops.cast, node, dtype=dtype)
            self._position_nodes[key] = node
        return self._position_nodes[key]

    def _position(self, expr: ScoreExpr, layout: Layout, floats: bool) -> Any:
        """floats: positions are made floats first, as they are where they meet numbers of a weight."""
        if expr == Q:
            rank = sum(dim.label == "fixed" for dim in layout)
            if floats:
                return self.reshaped(self.position_node(Q, (TOKEN,), "float32"), (1,) * rank)
            return self.reshaped(self.editor.input("position"), (1,) * rank)
        if expr.kind == "const":
            return expr.value
        if floats and not contains_kind(expr, "q"):
            return self.weight_node(self._numbers(expr, layout))
        if expr.kind not in OPS:
            raise Refusal(f"positions are rounded to {expr.kind}, and are no bias of scores")
        return self.node(OPS[expr.kind], *(self._position(arg, layout, floats) for arg in expr.args))

    def _numbers(self, expr: ScoreExpr, layout: Layout) -> Const:
        """An expression of the head alone as a constant, its numbers along the one fixed dimension that is wide."""
        shape = tuple(dim.size for dim in layout if dim.label == "fixed")
        given = self._slopes.get(expr)
        if given is None:
            context = ScoreContext(None, torch.arange(max(shape)), torch.tensor(0), torch.tensor(0))
            given = const(Stored(expr.evaluate(context).expand(max(shape)).contiguous()), "slopes", True)
        return fold(given.name, lambda t: t.reshape(shape), [given])

    def resolve(self, table: Table) -> Stream | Scores:
        """What a constant cut to the length of the sequence is: a mask, the positions, or rows looked up by position."""
        base, axes = table.base, table.axes
        if len(axes) == 2:
            return Scores(table.layout, simplify(table_expression(self.pairs(table))), base.weight.type.dtype)
        axis = axes[0]
        length = base.shape[axis]
        if base.real and base.weight.type.dtype == "int64" and base.tensor().numel() == length:
            if not torch.equal(base.tensor().flatten(), torch.arange(length)):
                raise Refusal("whole numbers for each position that are not the positions")
            return Scores(table.layout, Q, "int64")
        slopes = slopes_of(base, axis)
        if slopes is not None:
            slope = slopes.number()
            return Scores(table.layout, apply("mul", self.slopes(slopes) if slope is None else number(slope), Q), "float32")
        moved = fold(f"{base.name}.by_position", lambda t: t.movedim(axis, 0).reshape(length, -1), [base])
        if moved.weight.type.dtype != "float32":
            raise Refusal(f"a table of {moved.weight.type.dtype} indexed by position")
        node = self.node(ops.embedding, self.position_node(Q, (TOKEN,), "int64"), self.weight_node(moved))
        layout = table.layout
        return Stream(layout, self.reshaped(node, tuple(dim.size for dim in layout if dim.label == "fixed")))

    def pairs(self, table: Table) -> Tensor:
        """The numbers of a table over pairs of positions: `[n, n]`, or `[heads, n, n]`."""
        others = [size for i, size in enumerate(table.base.shape) if i not in table.axes and size != 1]
        if not table.base.real:
            raise Refusal("a learned table over pairs of positions")
        if len(others) > 1:
            raise Refusal("a table over pairs of positions with several other dimensions besides")
        values = table.base.tensor().movedim(table.axes, (-2, -1))
        return values.reshape(*others, *values.shape[-2:])

    # ---- alignment

    def aligned(self, values: list[Any]) -> tuple[list[Any], Layout]:
        """Operands of an elementwise op, each with the fixed dimensions that the result's layout asks for, and that layout."""
        layout = broadcast_layout([value.layout for value in values if isinstance(value, Value)])
        return [self.fitted(value, layout) for value in values], layout

    def fitted(self, value: Any, layout: Layout) -> Any:
        """One operand as a node (or number) that broadcasts against a value of `layout`."""
        if not isinstance(value, Value):
            return value
        if isinstance(value, Scores) and value.expr.kind == "const":
            return value.expr.value
        if isinstance(value, Const) and value.number() is not None and value.weight.type.dtype != "float32":
            return value.number()
        padded = (*[ONE] * (len(layout) - len(value.layout)), *value.layout)
        sizes = []
        for mine, wanted in zip(padded, layout, strict=True):
            if wanted.label == "fixed":
                sizes.append(mine.size if mine.label == "fixed" else 1)
        if isinstance(value, Const):
            while sizes and sizes[0] == 1:
                sizes.pop(0)
            if not sizes and value.number() is not None:
                return value.number()
            shape = tuple(sizes) or (1,)
            if value.shape != shape:
                value = fold(f"{value.name}.{'x'.join(map(str, shape))}", lambda t: t.reshape(shape), [value])
            return self.weight_node(value)
        if isinstance(value, Stream) and index_of(padded, "token") is None and index_of(layout, "token") is not None:
            raise Refusal("a value of one position, or of the whole sequence, meets values of every position")
        return self.reshaped(self.stream(value).node, tuple(sizes))


def slopes_of(base: Const, axis: int) -> Const | None:
    """What a table is by each position, if that is the last of its dimensions and the table exactly a line from nought."""
    if not base.real or base.weight.type.dtype != "float32" or axis != len(base.shape) - 1 or base.shape[axis] < 2:
        return None
    values = base.tensor()
    lines = values[..., 1:2]
    if sum(size > 1 for size in lines.shape) > 1 or not torch.equal(values, lines * torch.arange(values.shape[-1])):
        return None
    return const(Stored(lines.contiguous()), f"{base.name}.slopes", True)


def broadcast_layout(layouts: list[Layout]) -> Layout:
    """The layout of an elementwise result. Raises Refusal where positions would meet other dimensions."""
    rank = max(len(layout) for layout in layouts)
    result: list[Dim] = []
    for place in range(rank):
        dims = [layout[place - rank + len(layout)] for layout in layouts if place - rank + len(layout) >= 0]
        labels = {dim.label for dim in dims if dim.label != "one" and dim != fixed(1)}
        if len(labels) > 1:
            raise Refusal(f"positions meet another dimension: {', '.join(map(describe, layouts))}")
        label = labels.pop() if labels else None
        if label == "token":
            result.append(TOKEN)
        elif label == "key":
            result.append(KEY)
        elif label == "fixed":
            sizes = {dim.size for dim in dims if dim.size != 1}
            if len(sizes) > 1:
                raise Refusal(f"sizes do not broadcast: {', '.join(map(describe, layouts))}")
            result.append(fixed(sizes.pop()))
        else:
            result.append(fixed(1) if fixed(1) in dims else ONE)
    if any(result.count(dim) > 1 for dim in (TOKEN, KEY)):
        raise Refusal(f"it mixes positions: values of one meet those of another: {', '.join(map(describe, layouts))}")
    return tuple(result)


def describe(layout: Layout) -> str:
    """A layout for messages: `[one, token, 64]`."""
    return f"[{', '.join(map(str, layout))}]"


def fold(name: str, function: Callable[..., Tensor], operands: list[Any]) -> Const:
    """A constant made from constants: at once if all may be looked at, else when it is needed."""
    bases = [operand for operand in operands if isinstance(operand, Const)]

    def call(*values: Tensor) -> Tensor:
        given = iter(values)
        return function(*(next(given) if isinstance(operand, Const) else operand for operand in operands))

    if all(base.real for base in bases):
        return const(Stored(call(*(base.tensor() for base in bases)).contiguous()), name, True)
    with torch.no_grad():
        shapes = [torch.empty(base.shape, dtype=getattr(torch, base.weight.type.dtype), device="meta") for base in bases]
        result = call(*shapes)
    dtype = {torch.float64: "float32", torch.int32: "int64"}.get(result.dtype, str(result.dtype).removeprefix("torch."))
    return const(Computed(call, tuple(base.weight for base in bases), tuple(result.shape), dtype), name, False)


def paired(values: list[Any]) -> list[Any]:
    """Position expressions of one step of a pairwise op: along the later of two token dimensions they are about keys."""
    arrays = [value for value in values if isinstance(value, Scores)]
    rank = max(len(value.layout) for value in arrays)
    places: dict[int, set[str]] = {}
    for value in arrays:
        for label in ("token", "key"):
            place = index_of(value.layout, label)
            if place is not None:
                places.setdefault(place - len(value.layout) + rank, set()).add(label)
    if len(places) < 2:
        return values
    key_place = max(places)

    def relabel(value: Any) -> Any:
        if not isinstance(value, Scores) or value.pairwise:
            return value
        place = index_of(value.layout, "token")
        if place is None or place - len(value.layout) + rank != key_place:
            return value
        layout = tuple(KEY if i == place else dim for i, dim in enumerate(value.layout))
        return Scores(layout, move_to_keys(value.expr), value.dtype)

    return [relabel(value) for value in values]


def triangle(value: Scores, upper: bool, diagonal: int) -> Scores:
    """tril or triu of a square table over (query, key)."""
    labels = [dim.label for dim in value.layout[-2:]]
    if labels != ["token", "key"]:
        raise Refusal("tril or triu of something else than a table over (query, key)")
    if diagonal == 0 and not upper:
        keep = CAUSAL
    else:
        distance = apply("sub", K, Q)
        keep = apply("ge" if upper else "le", distance, number(diagonal))
    empty = number(False) if value.dtype == "bool" else number(0)
    return Scores(value.layout, simplify(apply("where", keep, value.expr, empty)), value.dtype, value.source)


def after_position(expr: ScoreExpr) -> int | None:
    """How much an expression adds to the position of a token, a whole number from 0 upwards; None if it is something else."""
    if expr == Q:
        return 0
    if expr.kind != "add" or Q not in expr.args:
        return None
    other = expr.args[0] if expr.args[1] == Q else expr.args[1]
    return other.value if other.kind == "const" and isinstance(other.value, int) and other.value >= 0 else None
