"""Ops that rearrange dimensions. The token dimension may move, but it may not merge, split, shift or be cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch.fx import Node

from llmc.capture.axes import Builder, fold
from llmc.capture.rules import rule
from llmc.capture.values import (
    ONE,
    TOKEN,
    Const,
    Dim,
    Layout,
    Length,
    Probabilities,
    Refusal,
    S,
    Scores,
    Size,
    Stream,
    Table,
    Value,
    fixed,
    index_of,
    normal,
)
from llmc.ir import ops
from llmc.ir.program import type_of

END = 2**62


def arranged(b: Builder, x: Value, order: list[int]) -> Value:
    """The dimensions in another order."""
    layout = tuple(x.layout[i] for i in order)
    if isinstance(x, Table):
        base = fold(f"{x.base.name}.permuted", lambda t: t.permute(order).contiguous(), [x.base])
        return Table(layout, base, tuple(order.index(axis) for axis in x.axes))
    if not isinstance(x, Stream):
        return x.with_layout(layout)
    places = [i for i, dim in enumerate(x.layout) if dim.label == "fixed"]
    inner = tuple(places.index(i) + 1 for i in order if i in places)
    node = x.node if inner == tuple(sorted(inner)) else b.node(ops.permute, x.node, dims=inner)
    return Stream(layout, node)


@rule("transpose", "swapaxes")
def _transpose(b: Builder, x: Value, first: int, second: int) -> Value:
    order = list(range(len(x.layout)))
    first, second = normal(first, len(order)), normal(second, len(order))
    order[first], order[second] = second, first
    return arranged(b, x, order)


@rule("t", "numpy_T", "mT")
def _t(b: Builder, x: Value) -> Value:
    return _transpose(b, x, -2, -1)


@rule("permute")
def _permute(b: Builder, x: Value, dims: list[int]) -> Value:
    return arranged(b, x, [normal(d, len(x.layout)) for d in dims])


@rule("unsqueeze")
def _unsqueeze(b: Builder, x: Value, dim: int) -> Value:
    place = normal(dim, len(x.layout) + 1)
    if isinstance(x, Table):
        x = b.resolve(x)
    return x.with_layout((*x.layout[:place], ONE, *x.layout[place:]))


@rule("squeeze")
def _squeeze(b: Builder, x: Value, dims: Any = None) -> Value:
    rank = len(x.layout)
    chosen = range(rank) if dims is None else [normal(d, rank) for d in ([dims] if isinstance(dims, int) else dims)]
    gone = {d for d in chosen if x.layout[d].extent == 1}
    return without(b, x, gone)


def without(b: Builder, x: Value, gone: set[int]) -> Value:
    """A value without some dimensions of size one."""
    layout = tuple(dim for i, dim in enumerate(x.layout) if i not in gone)
    if isinstance(x, Table):
        x = b.resolve(x)
    if isinstance(x, Stream):
        return Stream(layout, b.reshaped(x.node, tuple(dim.size for dim in layout if dim.label == "fixed")))
    return x.with_layout(layout)


def product(sizes: list[Size]) -> Length:
    """`scale * S`, or a number, as a Length. Raises Refusal for a product of two lengths."""
    scale, lengths = 1, 0
    for size in sizes:
        if isinstance(size, Length):
            if size.offset:
                raise Refusal("a dimension whose size is the length of the sequence plus something")
            scale, lengths = scale * size.scale, lengths + 1
        else:
            scale *= size
    if lengths > 1:
        raise Refusal("a reshape of a table over pairs of positions")
    return Length(scale, 0) if lengths else Length(0, scale)


@rule("view", "reshape", "_unsafe_view")
def _view(b: Builder, x: Value, shape: list[Size]) -> Value:
    if isinstance(x, Table):
        x = b.resolve(x)
    if list(shape) == list(x.sizes):
        return x
    if isinstance(x, Scores | Probabilities):
        return view_of_scores(x, list(shape))
    token = index_of(x.layout, "token")
    total, target = product(list(x.sizes)), list(shape)
    if -1 in target:
        rest = product([size for size in target if size != -1])
        unknown = target.index(-1)
        if rest.scale:
            target[unknown] = (total.scale // rest.scale) if total.scale else 0
        elif total.scale:
            target[unknown] = Length(total.scale // rest.offset, 0)
        else:
            target[unknown] = total.offset // rest.offset
    layout: list[Dim] = []
    place = next((i for i, size in enumerate(target) if isinstance(size, Length)), None)
    if (place is None) != (token is None) or (place is not None and target[place] != S):
        raise Refusal("it mixes positions: a reshape merges the sequence with other dimensions")
    if token is not None and place is not None and product(list(x.sizes[:token])) != product(target[:place]):
        raise Refusal("it mixes positions: a reshape moves elements between positions")
    for i, size in enumerate(target):
        layout.append(TOKEN if i == place else ONE if size == 1 else fixed(int(size)))  # type: ignore[arg-type]
    if not isinstance(x, Stream):
        raise Refusal("a reshape of something that is no value of the program")
    sizes = tuple(dim.size for dim in layout if dim.label == "fixed")
    return Stream(tuple(layout), b.reshaped(x.node, sizes))


def view_of_scores(x: Scores | Probabilities, target: list[Size]) -> Value:
    """A reshape of scores that only adds or drops dimensions of size one, or names -1."""
    mine = [dim for dim in x.layout if dim.extent != 1]
    layout: list[Dim] = []
    for size in target:
        if size == 1:
            layout.append(ONE)
        elif mine and size in (mine[0].extent, -1):
            layout.append(mine.pop(0))
        else:
            raise Refusal("a reshape of attention scores")
    if mine:
        raise Refusal("a reshape of attention scores")
    return x.with_layout(layout)


@rule("flatten")
def _flatten(b: Builder, x: Value, start: int = 0, end: int = -1) -> Value:
    rank = len(x.layout)
    start, end = normal(start, rank), normal(end, rank)
    sizes = x.sizes
    merged = product(list(sizes[start : end + 1]))
    return _view(b, x, [*sizes[:start], Length.plain(merged.scale, merged.offset), *sizes[end + 1 :]])


@rule("unflatten")
def _unflatten(b: Builder, x: Value, dim: int, sizes: list[Size]) -> Value:
    place = normal(dim, len(x.layout))
    return _view(b, x, [*x.sizes[:place], *sizes, *x.sizes[place + 1 :]])


@rule("expand")
def _expand(b: Builder, x: Value, shape: list[Size], implicit: bool = False) -> Value:
    if isinstance(x, Table):
        x = b.resolve(x)
    padded = (*[ONE] * (len(shape) - len(x.layout)), *x.layout)
    layout = [dim if size in (-1, 1, dim.extent) else None for dim, size in zip(padded, shape, strict=True)]
    if None not in layout:
        return x.with_layout(layout)  # type: ignore[arg-type]
    if isinstance(x, Scores):
        return Scores(padded, x.expr, x.dtype, x.source)
    if not isinstance(x, Stream):
        raise Refusal("a constant is repeated for each position")
    wider = []
    for dim, size in zip(padded, shape, strict=True):
        if isinstance(size, Length) and dim.label != "token":
            raise Refusal("a value is repeated for each position")
        keep = size in (-1, dim.extent)
        wider.append(dim if keep else fixed(size))  # type: ignore[arg-type]
    node = b.fitted(x.with_layout(padded), tuple(wider))
    sizes = tuple(dim.size for dim in wider if dim.label == "fixed")
    return Stream(tuple(wider), node if type_of(node).fixed == sizes else b.node(ops.expand, node, shape=sizes))


@rule("repeat_interleave")
def _repeat_interleave(b: Builder, x: Value, repeats: int, dim: int, output_size: Any = None) -> Value:
    x = b.stream(x)
    place = normal(dim, len(x.layout))
    size = x.layout[place]
    if size.label != "fixed":
        raise Refusal("it mixes positions: values are repeated along the sequence")
    apart = x.with_layout((*x.layout[: place + 1], ONE, *x.layout[place + 1 :]))
    sizes = list(apart.sizes)
    sizes[place + 1] = repeats
    wide = _expand(b, apart, sizes)
    return _view(b, wide, [*x.sizes[:place], size.size * repeats, *x.sizes[place + 1 :]])


@rule("slice")
def _slice(b: Builder, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    place = normal(dim, len(x.layout))
    size = x.layout[place].extent
    begin, stop = 0 if start is None else start, END if end is None else end
    if size == S:
        return cut_tokens(b, x, place, begin, stop, step)
    if isinstance(x, Const | Table) and stop == S and begin == 0 and step == 1:
        layout = tuple(TOKEN if i == place else d for i, d in enumerate(x.layout))
        if isinstance(x, Const):
            return Table(layout, x, (place,))
        if place < x.axes[0]:
            raise Refusal("a table cut along its later dimension first")
        layout = tuple(Dim("key") if i == place else d for i, d in enumerate(x.layout))
        return Table(layout, x.base, (*x.axes, place))
    if isinstance(begin, Length) or isinstance(stop, Length):
        raise Refusal("a slice of a fixed dimension that depends on the length of the sequence")
    assert isinstance(size, int)
    first, last, stride = slice(begin, stop, step).indices(size)
    if (first, last, stride) == (0, size, 1):
        return x
    x = b.stream(x)
    if x.layout[place].label != "fixed" or last <= first:
        raise Refusal("an empty slice")
    inner = sum(d.label == "fixed" for d in x.layout[: place + 1])
    node = b.node(ops.slice_, x.node, dim=inner, start=first, stop=last, step=stride)
    count = len(range(first, last, stride))
    return Stream(tuple(fixed(count) if i == place else d for i, d in enumerate(x.layout)), node)


def cut_tokens(b: Builder, x: Any, place: int, start: Size, stop: Size, step: int) -> Any:
    """A slice of the sequence: all of it, or the last position."""
    everything = start == 0 or (isinstance(start, Length) and start.scale == 0)
    if everything and step == 1 and (stop == S or (isinstance(stop, int) and stop >= END)):
        return x
    last = start in (-1, Length(1, -1)) and (stop == S or (isinstance(stop, int) and stop >= END))
    if not last or x.layout[place].label != "token":
        raise Refusal("it selects positions other than the last")
    x = b.stream(x)
    layout = tuple(ONE if i == place else d for i, d in enumerate(x.layout))
    return Stream(layout, b.node(ops.select_rows, x.node))


@rule("select")
def _select(b: Builder, x: Any, dim: int, index: Any) -> Any:
    place = normal(dim, len(x.layout))
    if x.layout[place].extent == S:
        if index not in (-1, Length(1, -1)):
            raise Refusal("it selects positions other than the last")
        cut = cut_tokens(b, x, place, -1, END, 1)
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


@rule("index")
def _index(b: Builder, x: Any, indices: list[Any]) -> Value:
    chosen = [(i, index) for i, index in enumerate(indices) if index is not None]
    if len(chosen) != 1:
        raise Refusal("indexing by several tensors")
    place, index = chosen[0]
    if isinstance(x, Const) and place == 0 and not isinstance(index, Const) and len(x.shape) == 2:
        from llmc.capture.rules.contractions import looked_up

        return looked_up(b, x, index)
    if not isinstance(index, Const) or not index.real:
        raise Refusal("indexing by computed numbers")
    numbers = index.tensor().flatten().tolist()
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
