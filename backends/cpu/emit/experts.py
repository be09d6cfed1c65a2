"""Mixtures of experts: the rows of a step are put in the order of their experts, so that each expert is one product.

Statements that move rows touch those of other threads' shares, so none of them says `rows`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from llmc.backends.cpu.emit.products import Rows, product, times, with_zeros
from llmc.backends.cpu.emit.table import emits, given
from llmc.ir.program import type_of

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator
    from llmc.backends.cpu.layers import Carried
    from llmc.backends.cpu.plan import Location

ITEM = {"const float*": 4, "const uint8_t*": 1, "const uint16_t*": 2}


@emits("top_k", "top_k_indices")
def _top(g: Generator, node: Node) -> None:
    kind, x, target = type_of(node.args[0]), g.read(node, 0), g.new(node)
    size, count = kind.fixed[-1], type_of(node).fixed[-1]
    call = f"{node.target.name}<{kind.width // size}, {size}, {count}>"  # type: ignore[union-attr]
    g.add(node, f"{call}({x.pointer}, {x.stride}, {target.pointer}, {g.count(node)}, team);", target, rows=g.count(node))


@emits("expert_linear")
def _expert_linear(g: Generator, node: Node) -> None:
    experts, k = int(node.kwargs["experts"]), int(type_of(node.args[2]).shape[1])  # type: ignore[arg-type]
    each, n = type_of(node).fixed
    choices = times(g.count(node), each)
    order, first = sorted_choices(g, node, experts, choices)

    shared = len(type_of(node.args[0]).fixed) == 1
    x = g.read(node, 0) if shared else g.packed(node, 0)
    rows = g.scratch(f"{node.name}_rows", each * k, "float32")
    stride, repeats = (x.stride, each) if shared else (k, 1)
    args = f"{x.pointer}, {stride}, {repeats}, {order.pointer}, {rows.pointer}, {choices}, team"
    g.add(node, f"gather_rows<{k}>({args});", rows, reads=[x, order], note="")

    done = g.scratch(f"{node.name}_done", each * n, "float32")
    call = product(g, node, 2, n, Rows(rows, k, k, each, choices))
    read = [part.each // ITEM[part.ctype] for part in g.packer.pack(g.weights(node, 2)[0], call.layout, experts)]
    parts = [f"{part} + e * {step}" for part, step in zip(g.parts(node, 2, call.layout, experts), read, strict=True)]
    bias = f"{g.plain(node, 3)} + e * {n}" if given(node, 3) else "nullptr"
    own = [call.rows_from("own"), *with_zeros(call.read, parts), bias, f"{done.pointer} + own * {n}"]
    text = loop(experts, first, f"{call.kernel}({', '.join(own)}, {first.pointer}[e + 1] - own, team);")
    g.add(node, text, done, reads=[*call.reads, first])
    target = g.new(node)
    args = f"{done.pointer}, {order.pointer}, {first.pointer}, {target.pointer}, {choices}, team"
    g.add(node, f"scatter_rows<{experts}, {n}>({args});", target, reads=[done, order, first], note="")


def sorted_choices(g: Generator, node: Node, experts: int, choices: str) -> tuple[Location, Location]:
    """The choices in the order of their experts, and where each expert's begin; made once for all products of a choice."""
    inside = g.loop is not None and node in g.loop
    source: Node | Carried = g.loop.source(node, 1) if g.loop and inside else node.args[1]  # type: ignore[assignment]
    if source not in g.orders:
        chosen = g.packed(node, 1)
        order = g.scratch(f"{node.args[1]}_order", type_of(node.args[1]).width, "int64")
        first = g.scratch(f"{node.args[1]}_first", experts + 1, "int64")
        args = f"{chosen.pointer}, {order.pointer}, {first.pointer}, {choices}, team"
        g.add(node, f"sort_choices<{experts}>({args});", order, first, reads=[chosen], note="")
        g.orders[source] = order, first
    return g.orders[source]


def loop(experts: int, first: Location, call: str) -> str:
    """The call for each expert that has rows."""
    return (f"for (int e = 0; e < {experts}; e++) {{\n    const int64_t own = {first.pointer}[e];\n"
            f"    if (own < {first.pointer}[e + 1]) {call}\n}}")  # fmt: skip
