"""Rows rounded as a product that reads them would, given as floats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from llmc.backends.cpu.emit.products import times
from llmc.backends.cpu.emit.table import emits
from llmc.backends.cpu.pack import padded
from llmc.ir.program import type_of

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator


@emits("round_rows")
def _round_rows(g: Generator, node: Node) -> None:
    k = int(type_of(node).shape[-1])
    outer = type_of(node).width // k
    x = g.read(node, 0) if outer == 1 else g.packed(node, 0)
    stride, count, target = x.stride if outer == 1 else k, times(g.count(node), outer), g.new(node)
    if node.kwargs["to"] == "bfloat16":
        text = f"shorten_rows<{k}>({x.pointer}, {stride}, {target.pointer}, {count}, team);"
        g.add(node, text, target, rows=count, reads=[x])
        return
    q = g.scratch(f"{node.name}_q", outer * padded(k), "int16")
    scale = g.scratch(f"{node.name}_s", outer, "float32")
    args = f"{x.pointer}, {stride}, {q.pointer}, {scale.pointer}, {count}, team"
    g.add(node, f"quantize_rows<{k}>({args});", q, scale, rows=count, reads=[x])
    args = f"{q.pointer}, {scale.pointer}, {target.pointer}, {count}, team"
    g.add(node, f"restore_rows<{k}>({args});", target, rows=count, reads=[q, scale], note="")
