"""Rows rounded as a product that reads them would, given as floats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from llmc.backends.cpu.emit.products import Rows, rounded, times
from llmc.backends.cpu.emit.table import emits
from llmc.ir.program import type_of

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator


@emits("round_rows")
def _round_rows(g: Generator, node: Node) -> None:
    k = int(type_of(node).shape[-1])
    outer = type_of(node).width // k
    x = g.read(node, 0) if outer == 1 else g.packed(node, 0)
    rows = Rows(x, x.stride if outer == 1 else k, k, outer, times(g.count(node), outer))
    rounded(g, node, rows, str(node.kwargs["to"]), g.new(node))
