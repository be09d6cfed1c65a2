"""Ops that take a part of a value, or put parts together. The sequence stays whole, but for its last position."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch.fx import Node

from llmc.capture.axes import Builder, fold
from llmc.capture.biases import looked_up_by_pairs
from llmc.capture.rules import rule
from llmc.capture.rules.pointwise import dtype_name
from llmc.capture.rules.views import _unsqueeze, without
from llmc.capture.values import (
    ONE,
    TOKEN,
    Const,
    Dim,
    Empty,
    Layout,
    Length,
    Refusal,
    S,
    Scores,
    Size,
    Stream,
    Table,
    Value,
    fixed,
    normal,
)
from llmc.ir import ops
from llmc.ir.program import type_of
from llmc.ir.score import const

END = 2**62


@rule("slice")
def _slice(b: Builder, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    place = normal(dim, len(x.layout))
    size = x.layout[place].extent
    begin, stop = 0 if start is None else start, END if end is None else end
    if size == S:
        return cut_tokens(b, x, place, begin, stop, step)
    if isinstance(x, Const | Table) and stop == S and begin == 0 and step == 1:
        axes = sorted([place] if isinstance(x, Const) else [*x.axes, place])
        labels = dict(zip(axes, (TOKEN, Dim("key")), strict=False))  # the later of two is the keys', whichever was cut first
        layout = tuple(labels.get(i, d) for i, d in enumerate(x.layout))
        return Table(layout, x if isinstance(x, Const) else x.base, tuple(axes))
    if isinstance(begin, Length) or isinstance(stop, Length):
        raise Refusal("a slice of a fixed dimension that depends on the length of the sequence")
    assert isinstance(size, int)
    first, last, stride = slice(begin, stop, step).indices(size)
    if (first, last, stride) == (0, size, 1):
        return x
    if last <= first:
        return Empty(tuple(fixed(0) if i == place else d for i, d in enumerate(x.layout)), dtype_name(x))
    x = b.stream(x)
    inner = sum(d.label == "fixed" for d in x.layout[: place + 1])
    node = b.node(ops.slice_, x.node, dim=inner, start=first, stop=last, step=stride)
    count = len(range(first, last, stride))
    return Stream(tuple(fixed(count) if i == place else d for i, d in enumerate(x.layout)), node)


def cut_tokens(b: Builder, x: Any, place: int, start: Size, stop: Size, step: int) -> Any:
    """A slice of the sequence: all of it, or the last position."""
    everything = start == 0 or (isinstance(start, Length) and start.scale == 0)
    if everything and step == 1 and (stop == S or (isinstance(stop, int) and stop >= END)):
        return x
    if x.layout[place].label == "key":
        raise Refusal("it mixes positions: the scores of some keys are picked")
    last = start in (-1, Length(1, -1)) and (stop == S or (isinstance(stop, int) and stop >= END))
    if b.whole and x.layout[place].label == "token" and (last or (start, stop, step) == (0, 1, 1)):
        return pooled(b, x, place, "last" if last else "first")
    if not last or x.layout[place].label != "token":
        raise Refusal("it selects positions other than the last")
    x = b.stream(x)
    layout = tuple(ONE if i == place else d for i, d in enumerate(x.layout))
    return Stream(layout, b.node(ops.select_rows, x.node))


def pooled(b: Builder, x: Any, place: int, how: str) -> Stream:
    """A value of the sequence out of those of its tokens, where the layout has the sequence."""
    x = b.stream(x)
    return Stream(tuple(ONE if i == place else d for i, d in enumerate(x.layout)), b.node(ops.pool, x.node, how=how))


@rule("select")
def _select(b: Builder, x: Any, dim: int, index: Any) -> Any:
    place = normal(dim, len(x.layout))
    if x.layout[place].extent == S:
        first = b.whole and index == 0
        if not first and index not in (-1, Length(1, -1)):
            raise Refusal("it selects positions other than the last")
        cut = cut_tokens(b, x, place, 0, 1, 1) if first else cut_tokens(b, x, place, -1, END, 1)
    else:
        begin = normal(index, x.layout[place].size)
        cut = _slice(b, x, place, begin, begin + 1)
    return without(b, cut, {place})


@rule("split", "split_with_sizes", "chunk", "unbind", "tensor_split")
def _split(b: Builder, x: Any, sizes: Any = None, dim: int = 0, *, name: str) -> list[Any]:
    if name == "unbind":
        place = normal(sizes or dim, len(x.layout))
        return [_select(b, x, place, i) for i in range(fixed_size(x, place))]
    place = normal(dim, len(x.layout))
    size = fixed_size(x, place)
    if name == "chunk":
        sizes = -(-size // sizes)
    pieces = list(sizes) if isinstance(sizes, list | tuple) else [min(sizes, size - i) for i in range(0, size, sizes)]
    parts, start = [], 0
    for piece in pieces:
        parts.append(_slice(b, x, place, start, start + piece))
        start += piece
    return parts


def fixed_size(x: Any, place: int) -> int:
    if x.layout[place].label in ("token", "key"):
        raise Refusal("it mixes positions: the sequence is split")
    return x.layout[place].size


@rule("cat", "concat", "stack")
def _cat(b: Builder, values: list[Any], dim: int = 0, *, name: str) -> Value:
    place = normal(dim, max(len(v.layout) for v in values) + (name == "stack"))
    if name == "stack":
        values = [_unsqueeze(b, v, place) for v in values]
    values = [v for v in values if not isinstance(v, Empty)] or values[:1]
    if len(values) == 1:
        return values[0]
    if any(v.layout[place].label in ("token", "key") for v in values):
        raise Refusal("it mixes positions: values are put before or after the sequence")
    if any(isinstance(v, Const) for v in values):
        raise Refusal("a constant is joined to values of the sequence")
    streams = [b.stream(v) for v in values]
    sizes = [s.layout[place].size for s in streams]
    others: Layout = streams[0].layout
    nodes: list[Node] = []
    for stream, size in zip(streams, sizes, strict=True):
        wanted = tuple(fixed(size) if i == place else d for i, d in enumerate(others))
        nodes.append(b.fitted(stream, wanted))
    inner = sum(d.label == "fixed" for d in others[:place]) + 1
    layout = tuple(fixed(sum(sizes)) if i == place else d for i, d in enumerate(others))
    return Stream(layout, b.node(ops.concat, *nodes, dim=inner))


def from_the_end(b: Builder, index: Stream, rows: int) -> Stream:
    """An index that counts from the end where it is negative, as indexing does; ids and positions never are."""
    if index.node.op == "placeholder":
        return index
    negative, shifted = b.node(ops.lt, index.node, 0), b.node(ops.add, index.node, rows)
    return Stream(index.layout, b.node(ops.where, negative, shifted, index.node))


@rule("gather")
def _gather(b: Builder, x: Any, dim: int, index: Any, **ignored: Any) -> Value:
    """Rows of a table, each by a number that is repeated along the row; or one number at all positions, where the table has no
    other, as the types of tokens that nobody gave."""
    place, rank = normal(dim, len(x.layout)), len(x.layout)
    number = b.same_at_all_positions(x, place, index)
    if number is not None:
        return Scores(index.layout, const(number), dtype_name(x))
    row = Scores(index.layout[:-1], index.expr, index.dtype) if isinstance(index, Scores) else before_repeat(b, index)
    if not isinstance(x, Const) or row is None or place != rank - 2 or any(size != 1 for size in x.shape[:-2]):
        raise Refusal("numbers picked one by one, and not rows of a table")
    if index.layout[-1].size > x.shape[-1]:
        raise Refusal("more numbers are picked than a row has")
    from llmc.capture.rules.contractions import looked_up

    table = fold(f"{x.name}.rows", lambda t: t.reshape(t.shape[-2:])[:, : index.layout[-1].size], [x])
    return looked_up(b, table, row)


def before_repeat(b: Builder, x: Any) -> Stream | None:
    """What was repeated along the last dimension of a value, without that dimension; None if it was not."""
    node = x.node if isinstance(x, Stream) else None
    if node is None or node.target is not ops.expand or x.layout[-1].label != "fixed":
        return None
    base: Any = node.args[0]
    *outer, last = type_of(base).fixed
    if last != 1 or tuple(outer) != type_of(node).fixed[:-1]:
        return None
    return Stream(x.layout[:-1], b.reshaped(base, tuple(outer)))


@rule("index_select")
def _index_select(b: Builder, x: Any, dim: int, index: Any) -> Value:
    return _index(b, x, [*[None] * normal(dim, len(x.layout)), index])


@rule("index")
def _index(b: Builder, x: Any, indices: list[Any]) -> Value:
    chosen = [(i, index) for i, index in enumerate(indices) if index is not None]
    if len(chosen) != 1:
        raise Refusal("indexing by several tensors")
    place, index = chosen[0]
    if isinstance(x, Const) and place == 0 and isinstance(index, Scores) and index.pairwise and len(x.shape) <= 2:
        return looked_up_by_pairs(b, x, index)
    if isinstance(x, Const) and place == 0 and not isinstance(index, Const) and len(x.shape) == 2:
        from llmc.capture.rules.contractions import looked_up

        return looked_up(b, x, from_the_end(b, b.stream(index), x.shape[0]))
    if not isinstance(index, Const) or not index.real:
        raise Refusal("indexing by computed numbers")
    chosen_by = index.tensor().flatten()
    numbers = (chosen_by.nonzero().flatten() if chosen_by.dtype == torch.bool else chosen_by).tolist()
    if x.layout[place].extent == S:
        if numbers != [-1]:
            raise Refusal("it selects positions other than the last")
        return cut_tokens(b, x, place, -1, END, 1)
    size = fixed_size(x, place)
    numbers = [n % size for n in numbers]
    steps = {later - earlier for earlier, later in pairwise(numbers)} or {1}
    if len(steps) > 1 or min(steps) < 1 or len(index.shape) > 1:
        raise Refusal("indexing by numbers without a fixed step")
    return _slice(b, x, place, numbers[0], numbers[-1] + 1, steps.pop())
