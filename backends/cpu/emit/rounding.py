"""Rows rounded where they are made: as whole numbers for products that read them so, else as floats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from llmc.backends.cpu.caches import only_cached
from llmc.backends.cpu.emit.norms import affine, normalize
from llmc.backends.cpu.emit.pointwise import activated, elementwise, operands
from llmc.backends.cpu.emit.products import Rows, group_read, room_for_quantized, rounded, times
from llmc.backends.cpu.emit.table import emits
from llmc.backends.cpu.loops import element, row_loop
from llmc.ir import ops
from llmc.ir.program import type_of

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator
    from llmc.backends.cpu.plan import Location


@emits("round_rows")
def _round_rows(g: Generator, node: Node) -> None:
    cached = all(map(only_cached, g.counterparts(node))) and not g.program.whole_sequences
    if cached and not g.placed(node):  # rounded on their way into the cache, which alone is read
        g.alias(node, g.read(node, 0))
        return
    outer = type_of(node).width // int(type_of(node).shape[-1])
    x = g.read(node, 0) if outer == 1 else g.packed(node, 0)
    as_floats(g, node, x)


def as_floats(g: Generator, node: Node, x: Location) -> None:
    """Rows that are there, rounded and made floats again."""
    k = int(type_of(node).shape[-1])
    outer = type_of(node).width // k
    rows = Rows(x, x.stride if outer == 1 else k, k, outer, times(g.count(node), outer))
    rounded(g, node, rows, str(node.kwargs["to"]), g.new(node))


@emits("rounded_rms_norm", "rounded_layer_norm")
def _rounded_norm(g: Generator, node: Node) -> None:
    name, k = node.target.name.removeprefix("rounded_"), int(type_of(node).shape[-1])  # type: ignore[union-attr]
    group = common_group(g, node)
    if group is None:
        plain = g.scratch(f"{node.name}_plain", type_of(node).width, "float32")
        normalize(g, node, name, plain)
        as_floats(g, node, plain)
        return
    x = g.read(node, 0)
    args = ", ".join([f"{x.pointer} + r * {x.stride}", "0", *affine(g, node, 1), "row", "1", "Team{0, 1}"])
    by_rows(g, node, f"{name}<1, {k}>({args});", k, group)


@emits("rounded_gated", "rounded_silu", "rounded_relu", "rounded_gelu")
def _rounded_activation(g: Generator, node: Node) -> None:
    group = common_group(g, node)
    if group is None:
        plain = g.scratch(f"{node.name}_plain", type_of(node).width, "float32")
        elementwise(g, node, activated(node), plain)
        as_floats(g, node, plain)
        return
    (k,) = type_of(node).fixed
    accesses, expression = operands(g, node, activated(node))
    value = expression.format(*(element(access, access.steps, ["i"]) for access in accesses))
    by_rows(g, node, f"for (int i = 0; i < {k}; i++) row[i] = {value};", k, group)


def common_group(g: Generator, node: Node) -> int | None:
    """The group in which all that read a node's rows take them as whole numbers; None if any of them takes floats, or is in
    another layer."""
    if g.placed(node) or len(type_of(node).fixed) != 1 or node.kwargs["to"] != "int8":
        return None
    layers = g.program.blocks.layers if g.program.blocks else ()
    layer = {inner: number for number, nodes in enumerate(layers) for inner in nodes}
    users = [(user, layer.get(each)) for each in g.counterparts(node) for user in each.users]
    if any(user.target not in ops.ROUNDING or layer.get(user) != own for user, own in users):
        return None
    groups = {group_read(g, user) for user in node.users}
    return groups.pop() if len(groups) == 1 else None


def by_rows(g: Generator, node: Node, compute: str, k: int, group: int) -> None:
    """A row at a time, computed as floats in `row` and kept as whole numbers."""
    parts = g.quantized[g.new(node), k, group] = room_for_quantized(g, node, k, 1, group)
    (q, size), (sums, count), (scale, _) = parts
    arguments = f"row, {q.pointer} + r * {size}, {sums.pointer} + r * {count}"
    lines = [f"{row_loop(g.count(node))} {{", f"    float row[{k}];", f"    {compute}",
             f"    {scale.pointer}[r] = quantize_row<{k}, {group}>({arguments});", "}"]  # fmt: skip
    g.add(node, "\n".join(lines), q, sums, scale, rows=g.count(node))
