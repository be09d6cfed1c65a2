"""Products, with weights and of values, and tables that are looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from llmc.backends.cpu.emit.table import emits, given
from llmc.backends.cpu.loops import broadcast_steps, contiguous_steps, element, located, nest, row_loop
from llmc.backends.cpu.pack import padded
from llmc.ir.program import type_of

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator
    from llmc.backends.cpu.plan import Location

DEFINED = "linear_impl.h"
TABLES = {"plain": "embedding", "panels": "embedding_f32", "int8": "embedding_i8"}


def times(count: str, factor: int) -> str:
    """`T`, or `T * 4`."""
    return count if factor == 1 else f"{count} * {factor}"


@emits("embedding")
def _embedding(g: Generator, node: Node) -> None:
    rows, size = (int(n) for n in type_of(node.args[1]).shape)
    ids, target = g.packed(node, 0), g.new(node)
    count = times(g.count(node), type_of(node.args[0]).width)
    layout = g.packer.table_layout(g.weights(node, 1))
    args = ", ".join([ids.pointer, *g.parts(node, 1, layout), target.pointer, count, "team"])
    g.add(node, f"{TABLES[layout]}<{rows}, {size}>({args});", target, rows=count, reads=[ids])


@emits("linear")
def _linear(g: Generator, node: Node) -> None:
    n, k = (int(size) for size in type_of(node.args[1]).shape)
    outer = type_of(node.args[0]).width // k
    x = g.read(node, 0) if outer == 1 else g.packed(node, 0)
    stride = x.stride if outer == 1 else k
    count = times(g.count(node), outer)
    bias = g.plain(node, 2) if given(node, 2) else "nullptr"
    layout, rounded = g.packer.product_layout(g.weights(node, 1)), node.kwargs.get("activations", "float32") == "int8"
    weight = ", ".join(g.parts(node, 1, layout))
    if node.kwargs.get("activations") == "bfloat16":
        short = g.scratch(f"{node.name}_r", outer * k, "float32")
        args = f"{x.pointer}, {stride}, {short.pointer}, {count}, team"
        g.add(node, f"shorten_rows<{k}>({args});", short, rows=count, reads=[x], note="")
        x, stride = short, k
    if rounded:
        q, scale = _quantize(g, node, x, stride, count)
        if layout == "int8":
            target = g.new(node)
            args = f"{q.pointer}, {scale.pointer}, {weight}, {bias}, {target.pointer}, {count}, team"
            g.add(node, f"{g.kernel(DEFINED, 'linear_i8', n, k)}({args});", target, reads=[q, scale])
            return
        x, stride = g.scratch(f"{node.name}_r", outer * k, "float32"), k
        args = f"{q.pointer}, {scale.pointer}, {x.pointer}, {count}, team"
        g.add(node, f"restore_rows<{k}>({args});", x, rows=count, reads=[q, scale], note="")
    target = g.new(node)
    kernel = g.kernel(DEFINED, "linear_w8" if layout == "int8" else "linear_f32", n, k)
    args = f"{x.pointer}, {stride}, {weight}, {bias}, {target.pointer}, {count}, team"
    g.add(node, f"{kernel}({args});", target, reads=[x])


def _quantize(g: Generator, node: Node, x: Location, stride: int, count: str) -> tuple[Location, Location]:
    """The rows of a linear layer's input as whole numbers, and their scales."""
    k = int(type_of(node.args[1]).shape[1])
    outer = type_of(node.args[0]).width // k
    q = g.scratch(f"{node.name}_q", outer * padded(k), "int16")
    scale = g.scratch(f"{node.name}_s", outer, "float32")
    args = f"{x.pointer}, {stride}, {q.pointer}, {scale.pointer}, {count}, team"
    g.add(node, f"quantize_rows<{k}>({args});", q, scale, rows=count, reads=[x], note="")
    return q, scale


@emits("matmul")
def _matmul(g: Generator, node: Node) -> None:
    a, b = (type_of(arg).fixed for arg in node.args)
    result, target = type_of(node).fixed, g.new(node)
    inner, lead = a[-1], result[:-2]
    names = [f"i{i}" for i in range(len(result))]
    steps_a = (*broadcast_steps((*a[:-2], a[-2] * a[-1]), (*lead, a[-2] * a[-1]))[:-1], inner, 0, 1)
    steps_b = (*broadcast_steps((*b[:-2], b[-2] * b[-1]), (*lead, b[-2] * b[-1]))[:-1], 0, 1, b[-1])
    left = element(located(g.read(node, 0), steps_a), steps_a, [*names, "c"])
    right = element(located(g.read(node, 1), steps_b), steps_b, [*names, "c"])
    steps = contiguous_steps(result)
    out = element(located(target, steps), steps, names)
    body = f"{{ float s = 0;\nfor (int c = 0; c < {inner}; c++) s += {left} * {right};\n{out} = s; }}"
    g.add(node, f"{row_loop(g.count(node))}\n{nest(result, names, body)}", target, rows=g.count(node))
