"""Ops that rearrange dimensions. The token dimension may move, but it may not merge, split, shift or be cut."""

from __future__ import annotations

from typing import Any

from llmc.capture.axes import Builder, fold
from llmc.capture.biases import turned
from llmc.capture.rules import rule
from llmc.capture.scores import move_to_keys
from llmc.capture.values import (
    ONE,
    TOKEN,
    Count,
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


def arranged(b: Builder, x: Value, order: list[int]) -> Value:
    """The dimensions in another order."""
    layout = tuple(x.layout[i] for i in order)
    if isinstance(x, Table):
        base = fold(f"{x.base.name}.permuted", lambda t: t.permute(order).contiguous(), [x.base])
        return Table(layout, base, tuple(order.index(axis) for axis in x.axes))
    if not isinstance(x, Stream):
        heads = [i for i in order if x.layout[i].label == "fixed" and x.layout[i].size > 1]
        if heads != sorted(heads):
            raise Refusal("the heads of attention scores are put in another order")
        key, query = index_of(layout, "key"), index_of(layout, "token")
        if isinstance(x, Scores) and x.source is None and key is not None and query is not None and key < query:
            names = {"token": Dim("key"), "key": TOKEN}  # of a mask that is turned, what was the query is now the key
            return Scores(tuple(names.get(dim.label, dim) for dim in layout), turned(b, x.expr), x.dtype)
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
    layout = [dim if size in (-1, dim.extent) else None for dim, size in zip(padded, shape, strict=True)]
    if None not in layout:
        return x.with_layout(layout)  # type: ignore[arg-type]
    if isinstance(x, Scores):
        return expanded_scores(x, padded, shape)
    if isinstance(x, Count) and not any(isinstance(size, Length) for size in shape):
        kept = [size in (-1, dim.extent) for dim, size in zip(padded, shape, strict=True)]
        wider: list[Any] = [dim if same else fixed(size) for dim, size, same in zip(padded, shape, kept, strict=True)]  # type: ignore[arg-type]
        return x.with_layout(wider)
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


def expanded_scores(x: Scores, padded: Layout, shape: list[Size]) -> Scores:
    """Numbers for positions, or for pairs of them, repeated along further dimensions."""
    layout = [dim if size in (-1, dim.extent) else fixed(size) for dim, size in zip(padded, shape, strict=True)]  # type: ignore[arg-type]
    added = [i for i, dim in enumerate(layout) if isinstance(dim.size, Length)]
    own = index_of(padded, "token")
    if not added:
        return Scores(tuple(layout), x.expr, x.dtype, x.source)
    if len(added) > 1 or x.pairwise or own is None:
        raise Refusal("a value is repeated for each position")
    earlier = added[0] < own  # what is repeated belongs to the later of two dimensions of positions: the keys
    layout[min(added[0], own)], layout[max(added[0], own)] = TOKEN, Dim("key")
    return Scores(tuple(layout), move_to_keys(x.expr) if earlier else x.expr, x.dtype)


@rule("repeat")
def _repeat(b: Builder, x: Any, repeats: list[Size]) -> Value:
    if isinstance(x, Table):
        x = b.resolve(x)
    padded = x.with_layout((*[ONE] * (len(repeats) - len(x.layout)), *x.layout))
    for place, count in enumerate(repeats):
        size = padded.layout[place].extent
        if count == 1:
            continue
        if size == 1:
            shape = [count if i == place else dim.extent for i, dim in enumerate(padded.layout)]
            padded = _expand(b, padded, shape)
        elif isinstance(count, Length) or isinstance(size, Length):
            raise Refusal("it mixes positions: the sequence is repeated")
        else:
            from llmc.capture.rules.selection import _cat

            padded = _cat(b, [padded] * count, place, name="cat")
    return padded


@rule("repeat_interleave")
def _repeat_interleave(b: Builder, x: Value, repeats: int, dim: int, output_size: Any = None) -> Value:
    x = b.stream(x)
    place = normal(dim, len(x.layout))
    size = x.layout[place]
    if size.label in ("token", "key"):
        raise Refusal("it mixes positions: values are repeated along the sequence")
    apart = x.with_layout((*x.layout[: place + 1], ONE, *x.layout[place + 1 :]))
    sizes = list(apart.sizes)
    sizes[place + 1] = repeats
    wide = _expand(b, apart, sizes)
    return _view(b, wide, [*x.sizes[:place], size.size * repeats, *x.sizes[place + 1 :]])
