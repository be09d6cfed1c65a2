"""Attention and pooling over whole sequences, which need no cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from llmc.backends.cpu.emit.table import emits, given
from llmc.backends.cpu.loops import element, located, nest, row_loop
from llmc.backends.cpu.score import number
from llmc.ir.program import type_of

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator

ROWS = {"first": "step.tokens.starts[r]", "last": "step.tokens.starts[r + 1] - 1"}


def attention_whole(g: Generator, node: Node) -> None:
    """An attention over keys and values of the step."""
    types = [type_of(arg).fixed for arg in node.args[:3]]
    query, keys, values = (g.read(node, slot) for slot in range(3))
    target = g.new(node)
    sinks = g.plain(node, 3) if given(node, 3) else "nullptr"
    bias = f"Bias{{{g.plain(node, 4)}, {int(type_of(node.args[4]).shape[1]) // 2}}}" if given(node, 4) else "Bias{}"
    score, given_by = g.functor(node)
    sizes = types[0][0], types[1][0], types[0][1], types[2][1]
    kernel = g.kernel("sequences_impl.h", "attention_whole", *sizes, score, given=given_by)
    operands = ", ".join(f"{x.pointer}, {x.stride}" for x in (query, keys, values))
    scale = number(float(node.kwargs["scale"]))  # type: ignore[arg-type]
    args = f"{operands}, {sinks}, {bias}, {scale}, {target.pointer}, step.tokens, team"
    g.add(node, f"{kernel}({args});", target, reads=[query, keys, values])


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
