"""Norms and rotary positions: a kernel each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from llmc.backends.cpu.emit.table import emits, given
from llmc.backends.cpu.score import number
from llmc.ir.program import type_of

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator
    from llmc.backends.cpu.plan import Location


@emits("rms_norm", "layer_norm")
def _norm(g: Generator, node: Node) -> None:
    normalize(g, node, node.target.name, g.new(node))  # type: ignore[union-attr]


def normalize(g: Generator, node: Node, name: str, target: Location) -> None:
    """A norm of the node's first operand."""
    x, size = g.read(node, 0), int(type_of(node).shape[-1])
    args = ", ".join([x.pointer, str(x.stride), *affine(g, node, 1), target.pointer, g.count(node), "team"])
    g.add(node, f"{name}<{type_of(node).width // size}, {size}>({args});", target, rows=g.count(node))


def affine(g: Generator, node: Node, slot: int) -> list[str]:
    """Weight (and bias, of a layer norm) from an operand on, and epsilon, as arguments."""
    slots = (slot,) if node.target.name.endswith("rms_norm") else (slot, slot + 1)  # type: ignore[union-attr]
    weights = [g.plain(node, i) if given(node, i) else "nullptr" for i in slots]
    return [*weights, number(float(node.kwargs["eps"]))]  # type: ignore[arg-type]


@emits("add_rms_norm", "add_layer_norm")
def _add_norm(g: Generator, node: Node) -> None:
    x, residual, target = g.read(node, 0), g.read(node, 1), g.new(node)
    size = int(type_of(node).shape[-1])
    operands = [x.pointer, str(x.stride), residual.pointer, str(residual.stride)]
    args = ", ".join([*operands, *affine(g, node, 2), target.pointer, g.count(node), "team"])
    name = node.target.name  # type: ignore[union-attr]
    g.add(node, f"{name}<{type_of(node).width // size // 2}, {size}>({args});", target, rows=g.count(node))


@emits("rope")
def _rope(g: Generator, node: Node) -> None:
    x, cos, sin = (g.read(node, slot) for slot in range(3))
    target, result = g.new(node), type_of(node)
    size, pairs = int(result.shape[-1]), int(type_of(node.args[1]).shape[-1])
    halves = "true" if node.kwargs["layout"] == "halves" else "false"
    angles = f"{cos.pointer}, {cos.stride}, {sin.pointer}, {sin.stride}"
    args = f"{x.pointer}, {x.stride}, {angles}, {target.pointer}, {g.count(node)}, team"
    g.add(node, f"rope<{result.width // size}, {size}, {pairs}, {halves}>({args});", target, rows=g.count(node))
