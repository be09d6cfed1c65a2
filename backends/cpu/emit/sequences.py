"""Attention and pooling over whole sequences, which need no cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from llmc.backends.cpu.emit.table import emits, given
from llmc.backends.cpu.loops import element, located, nest, row_loop
from llmc.backends.cpu.plan import Location
from llmc.backends.cpu.score import number
from llmc.ir.program import type_of
from llmc.runtime.contract import BLOCK

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator

LANES = 16
"""Of kernels/core.h."""

ROWS = {"first": "step.tokens.starts[r]", "last": "step.tokens.starts[r + 1] - 1"}


def attention_whole(g: Generator, node: Node, query: Location, key: Location, sinks_at: int) -> None:
    """An attention over keys and values of the step. sinks_at: their operand, which a bias may follow."""
    (heads, size), (groups, _), (_, width) = (type_of(arg).fixed for arg in node.args[:3])
    keys = g.scratch(f"{node.name}_keys", groups * size + BLOCK, "float32")
    text = f"pack_keys<{groups}, {size}>({key.pointer}, {key.stride}, {keys.pointer}, step.tokens, team);"
    g.add(node, text, keys, rows="T", reads=[key], note="")
    values = g.read(node, 2) if width % LANES == 0 else with_room(g, node, g.read(node, 2))
    target, bias_at = g.new(node), sinks_at + 1
    sinks = g.plain(node, sinks_at) if given(node, sinks_at) else "nullptr"
    bias, biased = "Bias{}", "false"
    if given(node, bias_at):
        bias, biased = f"Bias{{{g.plain(node, bias_at)}, {int(type_of(node.args[bias_at]).shape[1]) // 2}}}", "true"
    score, given_by = g.functor(node)
    kernel = g.kernel("sequences_impl.h", "attention_whole", heads, groups, size, width, biased, score, given=given_by)
    scale = number(float(node.kwargs["scale"]))  # type: ignore[arg-type]
    args = (f"{query.pointer}, {query.stride}, {keys.pointer}, {values.pointer}, {values.stride}, {sinks}, {bias}, {scale}, "
            f"{target.pointer}, step, team")  # fmt: skip
    g.add(node, f"{kernel}({args});", target, reads=[query, keys, values])


def with_room(g: Generator, node: Node, values: Location) -> Location:
    """Values copied to where a vector more can be read."""
    buffer = g.buffer(f"{node.name}_values", values.width + LANES, "float32")
    target = Location(buffer, 0, values.width)
    g.move(node, values, target)
    return target


@emits("pool")
def _pool(g: Generator, node: Node) -> None:
    how, x, target = str(node.kwargs["how"]), g.read(node, 0), g.new(node)
    if how in ROWS:
        source = element(located(x, (1,)), (1,), ("i",), row=f"({ROWS[how]})")
        out = element(located(target, (1,)), (1,), ("i",))
        g.add(node, f"{row_loop('S')}\n{nest([target.width], ['i'], f'{out} = {source};')}", target)
    else:
        args = f"{x.pointer}, {x.stride}, {target.pointer}, step.tokens, team"
        g.add(node, f"pool<Pooled::{how}, {target.width}>({args});", target)
