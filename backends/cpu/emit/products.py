"""Products, with weights and of values, and tables that are looked up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch.fx import Node

from llmc.backends.cpu.emit.pointwise import ACTIVATIONS
from llmc.backends.cpu.emit.table import emits, given
from llmc.backends.cpu.loops import broadcast_steps, contiguous_steps, element, located, map_rows, nest, row_loop
from llmc.backends.cpu.pack import LANES, PANELS, PLAIN, group_of, padded
from llmc.backends.cpu.plan import Location
from llmc.ir import ops
from llmc.ir.formats import Format, Integer
from llmc.ir.program import type_of

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator

FLOAT, INTEGER = "linear_float_impl.h", "linear_integer_impl.h"
MOST_TERMS = 65536
"""Products of bytes whose sum fits in 32 bits for sure (`linear_integer_impl.h`)."""


@dataclass(frozen=True)
class Kernels:
    """How weights of one layout are read: what kernels are called after `linear_`, with activations as they are and with those
    that were rounded to `activations` (None: there is none), and template arguments besides sizes."""

    plain: str
    rounded: str | None
    activations: str = ""
    arguments: tuple[str, ...] = ()


def kernels_of(layout: str, form: Format) -> Kernels:
    """The kernels for a layout of `llmc.backends.cpu.pack`."""
    if layout == PANELS:
        return Kernels("f32", None)
    if layout == "bf16":
        return Kernels("wbf16", "bf16", "bfloat16")
    if layout == "int8":
        return Kernels("w8", "w8a8", "int8")
    assert isinstance(form, Integer)
    return Kernels("w4", "w4a8", "int8", (str(form.group), "true" if form.zero_point else "false"))


def times(count: str, factor: int) -> str:
    """`T`, or `T * 4`."""
    return count if factor == 1 else f"{count} * {factor}"


@emits("embedding")
def _embedding(g: Generator, node: Node) -> None:
    rows, size = (int(n) for n in type_of(node.args[1]).shape)
    ids, target = g.packed(node, 0), g.new(node)
    count = times(g.count(node), type_of(node.args[0]).width)
    names = g.weights(node, 1)
    layout = g.packer.table_layout(names)
    table = g.parts(node, 1, layout)
    if layout == PLAIN:
        kernel = f"embedding<{rows}, {size}>"
    else:
        read = kernels_of(layout, g.program.weights[names[0]].format)
        kernel = f"embedding_{read.plain}<{', '.join([str(rows), str(size), *read.arguments])}>"
        table = with_zeros(read, table)
    args = ", ".join([ids.pointer, *table, target.pointer, count, "team"])
    g.add(node, f"{kernel}({args});", target, rows=count, reads=[ids])


def with_zeros(read: Kernels, parts: list[str]) -> list[str]:
    """The parts of a weight, with a null pointer in place of zero points that a format of four bits does not have."""
    return [*parts, "nullptr"] if read.arguments[1:] == ("false",) else parts


@emits("linear")
def _linear(g: Generator, node: Node) -> None:
    total = residual_sum(g, node)
    if total:
        multiply(g, node, g.new(total[0]), total=total)
        g.include(total[0])
    else:
        multiply(g, node, g.new(node))


def residual_sum(g: Generator, node: Node) -> tuple[Node, Location] | None:
    """What alone reads a product of whole numbers, if it is its sum with as large a value that is there, and where that is."""
    total = g.only_reader(node)
    if total is None or total.target is not ops.add or not group_read(g, node) or int(type_of(node).shape[-1]) % LANES:
        return None
    other = 1 - total.args.index(node)
    kinds = {type_of(total), type_of(node), type_of(total.args[other])} if isinstance(total.args[other], Node) else set()
    residual = g.known(total, other) if len(kinds) == 1 else None
    return (total, residual) if residual and residual.whole and g.new(total).whole else None


@emits("gated_linear")
def _gated_linear(g: Generator, node: Node) -> None:
    size = int(type_of(node).shape[-1])
    gate = ACTIVATIONS[str(node.kwargs["activation"])]
    if group_read(g, node) and size % LANES == 0:  # gates fill whole panels
        multiply(g, node, g.new(node), gate)
        return
    lead, target = type_of(node).fixed[:-1], g.new(node)
    both = g.scratch(f"{node.name}_both", 2 * type_of(node).width, "float32")
    multiply(g, node, both)
    steps = contiguous_steps((*lead, 2 * size))
    halves = [located(both, steps, start) for start in (0, size)]
    out = located(target, contiguous_steps((*lead, size)))
    text = map_rows(g.count(node), (*lead, size), out, halves, f"{gate}({{0}}) * {{1}}")
    g.add(node, text, target, rows=g.count(node), reads=[both], note="")


def multiply(
    g: Generator, node: Node, target: Location, gate: str = "", total: tuple[Node, Location] | None = None
) -> None:
    """The product of a node's rows with its weight, or, of whole numbers, what `gate` makes of its halves, or its sum with a
    residual."""
    n, k = (int(size) for size in type_of(node.args[1]).shape)
    outer = type_of(node.args[0]).width // k
    x = g.read(node, 0) if outer == 1 else g.packed(node, 0)
    rows = Rows(x, x.stride if outer == 1 else k, k, outer, times(g.count(node), outer))
    call = product(g, node, 1, n, rows, *([gate] if gate else []))
    bias = g.plain(node, 2) if given(node, 2) else "nullptr"
    weight = ", ".join(with_zeros(call.read, g.parts(node, 1, call.layout)))
    also, residual = total or (None, None)
    more = f", {residual.pointer}" if residual else ""
    text = f"{call.kernel}({call.rows_from()}, {weight}, {bias}, {target.pointer}, {rows.count}, team{more});"
    g.add(node, text, target, reads=[*call.reads, *([residual] if residual else [])], also=also)


@dataclass(frozen=True)
class Rows:
    """The input of a product: `outer` rows of k elements, `stride` apart, for each of the program's; `count` of all in C++."""

    x: Location
    stride: int
    k: int
    outer: int
    count: str


@dataclass(frozen=True)
class Product:
    """The call of a kernel. parts: where its rows are, and elements of a row there. ending: what follows as an argument."""

    kernel: str
    layout: str
    read: Kernels
    parts: list[tuple[Location, int]]
    ending: str = ""

    @property
    def reads(self) -> list[Location]:
        return [location for location, _ in self.parts]

    def rows_from(self, first: str = "") -> str:
        """The rows from one on, as arguments."""
        pointers = [f"{x.pointer} + {first} * {size}" if first else x.pointer for x, size in self.parts]
        return f"{{{', '.join(pointers)}}}" if len(pointers) > 1 else pointers[0] + self.ending


def product(g: Generator, node: Node, slot: int, n: int, rows: Rows, *more: str) -> Product:
    """Statements that round the rows as the node says, and the kernel for a weight of n outputs that takes them so.

    more: its last template arguments.
    """
    names = g.weights(node, slot)
    layout, form = g.packer.product_layout(names), g.program.weights[names[0]].format
    read, activations = kernels_of(layout, form), str(node.kwargs.get("activations", "float32"))
    group = group_of(form, rows.k) if layout != PANELS else padded(rows.k)
    if activations == "int8" and group > MOST_TERMS:
        g.refuse(node, f"sums of {group} products of bytes need more than 32 bits; quantize this weight to 4 bits, in groups")
    if read.rounded and activations == read.activations:
        whole = activations == "int8"
        kernel = g.kernel(INTEGER if whole else FLOAT, f"linear_{read.rounded}", n, rows.k, *read.arguments, *more)
        return Product(kernel, layout, read, quantized(g, node, rows, group) if whole else in_bfloat16(g, node, rows))
    kernel = g.kernel(FLOAT, f"linear_{read.plain}", n, rows.k, *read.arguments)
    if activations != "float32":
        rows = rounded(g, node, rows, activations)
    return Product(kernel, layout, read, [(rows.x, rows.stride)], f", {rows.stride}")


Parts = list[tuple[Location, int]]
"""Rows in whole numbers: values, their sums over each group, and scales; and elements of each a row."""


def quantized(g: Generator, node: Node, rows: Rows, group: int) -> Parts:
    """Rows in whole numbers, made once for all products that read them so."""
    key = rows.x, rows.k, group
    if key not in g.quantized:
        parts = g.quantized[key] = room_for_quantized(g, node, rows.k, rows.outer, group)
        made = [x for x, _ in parts]
        args = ", ".join([rows.x.pointer, str(rows.stride), *(x.pointer for x in made), rows.count, "team"])
        g.add(node, f"quantize_rows<{rows.k}, {group}>({args});", *made, rows=rows.count, reads=[rows.x], note="")
    return g.quantized[key]


def room_for_quantized(g: Generator, node: Node, k: int, outer: int, group: int) -> Parts:
    """Memory for rows in whole numbers."""
    size = padded(k, group)
    kinds = (("q", size, "int8"), ("sums", size // group, "int32"), ("s", 1, "float32"))
    return [(g.scratch(f"{node.name}_{end}", outer * each, dtype), each) for end, each, dtype in kinds]


def group_read(g: Generator, node: Node) -> int | None:
    """The group in which a linear layer reads its input in whole numbers, or None if it reads floats."""
    names = g.weights(node, 1)
    layout, form = g.packer.product_layout(names), g.program.weights[names[0]].format
    whole = node.kwargs.get("activations") == "int8" and kernels_of(layout, form).activations == "int8"
    return group_of(form, int(type_of(node.args[1]).shape[1])) if whole else None


def in_bfloat16(g: Generator, node: Node, rows: Rows) -> list[tuple[Location, int]]:
    """Rows as pairs of bfloat16, and elements of each."""
    size = padded(rows.k, 2)
    made = g.scratch(f"{node.name}_b", rows.outer * size, "uint16")
    args = f"{rows.x.pointer}, {rows.stride}, {made.pointer}, {rows.count}, team"
    g.add(node, f"bfloat16_rows<{rows.k}>({args});", made, rows=rows.count, reads=[rows.x], note="")
    return [(made, size)]


def rounded(g: Generator, node: Node, rows: Rows, activations: str, target: Location | None = None) -> Rows:
    """Rows rounded, as floats: for weights that are not of the kind that they are rounded to."""
    reads, (start, name) = [rows.x], (f"{rows.x.pointer}, {rows.stride}", f"shorten_rows<{rows.k}>")
    if activations == "int8":
        (q, _), _, (scale, _) = quantized(g, node, rows, padded(rows.k))
        reads, start, name = [q, scale], f"{q.pointer}, {scale.pointer}", f"restore_rows<{rows.k}, {padded(rows.k)}>"
    x = target or g.scratch(f"{node.name}_r", rows.outer * rows.k, "float32")
    g.add(node, f"{name}({start}, {x.pointer}, {rows.count}, team);", x, rows=rows.count, reads=reads, note="")
    return replace(rows, x=x, stride=rows.k)


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
