"""Attention, and the cache that it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from llmc.backends.cpu.caches import Slot
from llmc.backends.cpu.emit.sequences import attention_whole
from llmc.backends.cpu.emit.table import emits, given
from llmc.backends.cpu.score import number
from llmc.ir.program import type_of

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator


def cache(g: Generator, node: Node) -> Slot:
    """The cache of an attention's keys and values, written if this is the first attention of the step to use it."""
    slot, new = g.caches.take(node, g.loop)
    for operand, kind, buffer in zip((1, 2), ("keys", "values"), slot, strict=True) if new else ():
        groups, size = type_of(node.args[operand]).fixed
        x = g.read(node, operand)
        text = f"write_{kind}<{groups}, {size}>({x.pointer}, {x.stride}, {buffer.name}, step.tokens, team);"
        g.add(node, text, buffer, rows="T", reads=[x], note="")
    return slot


@emits("attention")
def _attention(g: Generator, node: Node) -> None:
    if g.program.whole_sequences:
        attention_whole(g, node)
        return
    q, k, v = (type_of(arg) for arg in node.args[:3])
    keys, values = cache(g, node)
    query, target = g.read(node, 0), g.new(node)
    sinks = g.plain(node, 3) if given(node, 3) else "nullptr"
    score, given_by = g.functor(node)
    sizes = q.fixed[0], k.fixed[0], q.fixed[1], v.fixed[1]
    kernel = g.kernel("attention_impl.h", "attention", *sizes, score, given=given_by)
    scale = number(float(node.kwargs["scale"]))  # type: ignore[arg-type]
    args = (f"{query.pointer}, {query.stride}, {keys.name}, {values.name}, {sinks}, {scale}, "
            f"{target.pointer}, step.tokens, team")  # fmt: skip
    g.add(node, f"{kernel}({args});", target, reads=[query, keys, values])
