"""Attention, and the cache that it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from llmc.backends.cpu.caches import Slot, rounding
from llmc.backends.cpu.emit.norms import turn, turned
from llmc.backends.cpu.emit.sequences import attention_whole
from llmc.backends.cpu.emit.table import emits, given
from llmc.backends.cpu.plan import Location
from llmc.backends.cpu.score import number
from llmc.ir import ops
from llmc.ir.program import type_of

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator


def cache(g: Generator, node: Node) -> Slot:
    """The cache of an attention's keys and values, written if this is the first attention of the step to use it."""
    slot, new = g.caches.take(node, g.loop)
    for operand, kind, buffer in zip((1, 2), ("keys", "values"), slot, strict=True) if new else ():
        groups, size = type_of(node.args[operand]).fixed
        kept = g.caches.kept(node, operand, g.loop)
        if kept != "float32":
            x = g.read(rounding(node, operand), 0)  # type: ignore[arg-type]
            arguments = f"Kept::{kept}, {str(kind == 'keys').lower()}, {groups}, {size}"
            call = f"write_rounded<{arguments}>({x.pointer}, {x.stride}, {buffer.name}, step.tokens, team);"
            g.add(node, call, buffer, rows="T", reads=[x], note="")
            continue
        x, reads, sizes, angles = g.read(node, operand), [operand], f"{groups}, {size}", ""
        if kind == "keys" and node.target is ops.rope_attention:
            (sizes, angles), reads, kind = turn(g, node, groups, size, 3), [1, 3, 4], "turned_keys"
        args = ", ".join([x.pointer, str(x.stride), *([angles] if angles else []), buffer.name, "step.tokens", "team"])
        g.add(node, f"write_{kind}<{sizes}>({args});", buffer, rows="T", reads=[g.read(node, i) for i in reads], note="")
    return slot


@emits("attention")
def _attention(g: Generator, node: Node) -> None:
    if g.program.whole_sequences:
        attention_whole(g, node, g.read(node, 0), g.read(node, 1), 3)
    else:
        attend(g, node, g.read(node, 0), 3)


@emits("rope_attention")
def _rope_attention(g: Generator, node: Node) -> None:
    query = g.scratch(f"{node.name}_q", type_of(node.args[0]).width, "float32")
    turned(g, node, 0, 3, query, note="")
    if g.program.whole_sequences:
        key = g.scratch(f"{node.name}_k", type_of(node.args[1]).width, "float32")
        turned(g, node, 1, 3, key, note="")
        attention_whole(g, node, query, key, 5)
    else:
        attend(g, node, query, 5)


def attend(g: Generator, node: Node, query: Location, sinks_at: int) -> None:
    """An attention over the cache, with queries as they are multiplied."""
    q, k, v = (type_of(arg) for arg in node.args[:3])
    keys, values = cache(g, node)
    target = g.new(node)
    sinks = g.plain(node, sinks_at) if given(node, sinks_at) else "nullptr"
    score, given_by = g.functor(node)
    sizes = q.fixed[0], k.fixed[0], q.fixed[1], v.fixed[1]
    kept = [f"Kept::{g.caches.kept(node, operand, g.loop)}" for operand in (1, 2)]
    kernel = g.kernel("attention_impl.h", "attention", *kept, *sizes, score, given=given_by)
    scale = number(float(node.kwargs["scale"]))  # type: ignore[arg-type]
    args = (f"{query.pointer}, {query.stride}, {keys.name}, {values.name}, {sinks}, {scale}, "
            f"{target.pointer}, step, team")  # fmt: skip
    g.add(node, f"{kernel}({args});", target, g.partials, reads=[query, keys, values])
