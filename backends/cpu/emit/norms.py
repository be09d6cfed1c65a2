"""Norms and rotary positions: a kernel each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from llmc.backends.cpu.emit.table import emits, given
from llmc.backends.cpu.score import number
from llmc.ir.program import type_of

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator


@emits("rms_norm", "layer_norm")
def _norm(g: Generator, node: Node) -> None:
    name = node.target.name  # type: ignore[union-attr]
    x, size = g.read(node, 0), int(type_of(node).shape[-1])
    target = g.new(node)
    slots = (1,) if name == "rms_norm" else (1, 2)
    weights = [g.plain(node, slot) if given(node, slot) else "nullptr" for slot in slots]
    eps = number(float(node.kwargs["eps"]))  # type: ignore[arg-type]
    args = ", ".join([x.pointer, str(x.stride), *weights, eps, target.pointer, g.count(node), "team"])
    g.add(node, f"{name}<{type_of(node).width // size}, {size}>({args});", target, rows=g.count(node))


@emits("rope")
def _rope(g: Generator, node: Node) -> None:
    x, cos, sin = (g.read(node, slot) for slot in range(3))
    target, result = g.new(node), type_of(node)
    size, pairs = int(result.shape[-1]), int(type_of(node.args[1]).shape[-1])
    halves = "true" if node.kwargs["layout"] == "halves" else "false"
    angles = f"{cos.pointer}, {cos.stride}, {sin.pointer}, {sin.stride}"
    args = f"{x.pointer}, {x.stride}, {angles}, {target.pointer}, {g.count(node)}, team"
    g.add(node, f"rope<{result.width // size}, {size}, {pairs}, {halves}>({args});", target, rows=g.count(node))
