"""Norms and rotary positions: a kernel each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from llmc.backends.cpu.emit.table import emits, given
from llmc.backends.cpu.plan import Location
from llmc.backends.cpu.score import number
from llmc.ir import ops
from llmc.ir.program import type_of

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator


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
    size, width = int(type_of(node).shape[-1]), type_of(node).width // 2
    operands = [g.read(node, 0), g.read(node, 1)]
    halves = [half(g, node, index) for index in range(2)]
    read, made = (", ".join(f"{x.pointer}, {x.stride}" for x in group) for group in (operands, halves))
    args = ", ".join([read, *affine(g, node, 2), made, g.count(node), "team"])
    name = node.target.name  # type: ignore[union-attr]
    g.add(node, f"{name}<{width // size}, {size}>({args});", *halves, rows=g.count(node))


def half(g: Generator, node: Node, index: int) -> Location:
    """Where one half of a result goes: to the place that the next layer or the caller expects it at, if there is one."""
    width, whole = type_of(node).width // 2, g.new(node)  # of which nothing is used if both halves have places
    for part in node.users if all(map(halved, g.counterparts(node))) else ():
        for value in part.users if part.kwargs["start"] == index else ():
            if value.target is ops.reshape and g.placed(value):
                return g.computed(part, value)
    return Location(whole.buffer, whole.offset + index * width, width)


def halved(node: Node) -> bool:
    """Whether nothing but its halves is read of a result, each by one slice."""
    read = [(user.target, *map(user.kwargs.get, ("dim", "start", "stop"))) for user in node.users]
    return len(set(read)) == len(read) and {*read} <= {(ops.slice_, 1, 0, 1), (ops.slice_, 1, 1, 2)}


@emits("rope")
def _rope(g: Generator, node: Node) -> None:
    turned(g, node, 0, 1, g.new(node))


def turned(g: Generator, node: Node, slot: int, cos: int, target: Location, note: str | None = None) -> None:
    """A statement that turns an operand by the angles at `cos` and the next."""
    x, kind, reads = g.read(node, slot), type_of(node.args[slot]), [g.read(node, i) for i in (slot, cos, cos + 1)]
    size = int(kind.shape[-1])
    sizes, angles = turn(g, node, kind.width // size, size, cos)
    args = f"{x.pointer}, {x.stride}, {angles}, {target.pointer}, {g.count(node)}, team"
    g.add(node, f"rope<{sizes}>({args});", target, rows=g.count(node), reads=reads, note=note)


def turn(g: Generator, node: Node, heads: int, size: int, slot: int) -> tuple[str, str]:
    """Template arguments of what turns heads, and the angles as arguments."""
    cos, sin = g.read(node, slot), g.read(node, slot + 1)
    halves = "true" if node.kwargs["layout"] == "halves" else "false"
    sizes = f"{heads}, {size}, {int(type_of(node.args[slot]).shape[-1])}, {halves}"
    return sizes, f"{cos.pointer}, {cos.stride}, {sin.pointer}, {sin.stride}"
