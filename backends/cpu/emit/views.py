"""Ops that move elements: names for parts of other memory where that is possible, else copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from llmc.backends.cpu.emit.table import emits
from llmc.backends.cpu.loops import Access, contiguous_steps, element, located, map_rows, nest, row_loop
from llmc.backends.cpu.plan import Location
from llmc.ir.program import type_of

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator


def copy(g: Generator, node: Node, read: Location, source: Access, sizes: tuple[int, ...], target: Access) -> None:
    """Move elements of `read` to the node's memory."""
    text = map_rows(g.count(node), sizes, target, [source], "{0}")
    g.add(node, text, g.new(node), rows=g.count(node), reads=[read])


@emits("reshape")
def _reshape(g: Generator, node: Node) -> None:
    g.alias(node, g.read(node, 0))


@emits("slice")
def _slice(g: Generator, node: Node) -> None:
    sizes, place = type_of(node.args[0]).fixed, int(node.kwargs["dim"]) - 1  # type: ignore[arg-type]
    start, step = int(node.kwargs["start"]), int(node.kwargs.get("step", 1))  # type: ignore[arg-type]
    steps = contiguous_steps(sizes)
    location, result = g.read(node, 0), type_of(node)
    if step == 1 and all(size == 1 for size in sizes[:place]):
        g.alias(node, Location(location.buffer, location.offset + start * steps[place], result.width))
        return
    inner = [s * step if i == place else s for i, s in enumerate(steps)]
    source = located(location, inner, start * steps[place])
    copy(g, node, location, source, result.fixed, located(g.new(node), contiguous_steps(result.fixed)))


@emits("permute")
def _permute(g: Generator, node: Node) -> None:
    steps, sizes = contiguous_steps(type_of(node.args[0]).fixed), type_of(node).fixed
    moved = [steps[int(dim) - 1] for dim in node.kwargs["dims"]]  # type: ignore[union-attr,arg-type]
    location = g.read(node, 0)
    copy(g, node, location, located(location, moved), sizes, located(g.new(node), contiguous_steps(sizes)))


@emits("concat")
def _concat(g: Generator, node: Node) -> None:
    steps, start = contiguous_steps(type_of(node).fixed), 0
    place = int(node.kwargs["dim"]) - 1  # type: ignore[arg-type]
    for slot, x in enumerate(node.args):
        sizes, location = type_of(x).fixed, g.read(node, slot)
        source = located(location, contiguous_steps(sizes))
        copy(g, node, location, source, sizes, located(g.new(node), steps, start * steps[place]))
        start += sizes[place]


@emits("select_rows")
def _select_rows(g: Generator, node: Node) -> None:
    target = g.new(node)
    source = element(located(g.read(node, 0), (1,)), (1,), ("i",), row="step.out_rows[r]")
    out = element(located(target, (1,)), (1,), ("i",))
    g.add(node, f"{row_loop('R')}\n{nest([target.width], ['i'], f'{out} = {source};')}", target, rows="R")
