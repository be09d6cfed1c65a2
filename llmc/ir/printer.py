"""Programs as text: one line a node, its type first to be seen, its origin at the end."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from llmc.ir.program import Program, origin_of, type_of


def print_program(program: Program) -> str:
    """The whole program, weights that only one node reads written into that node's line."""
    lines = [f"program({', '.join(f'{name}: {kind}' for name, kind in program.inputs.items())})"]
    rows = [(node.name, str(type_of(node)), print_call(program, node), str(origin_of(node))) for node in program.nodes]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    blocks = program.blocks
    starts: dict[Node, str] = {}
    if blocks:
        for i, block in enumerate(blocks.layers):
            starts[block[0]] = f"  # block {i + 1} of {len(blocks.layers)}"
        following = blocks.layers[-1][-1].next
        while following.op == "get_attr":
            following = following.next
        starts[following] = "  # after the blocks"
    for node, (name, kind, call, origin) in zip(program.nodes, rows, strict=True):
        if node in starts:
            lines.append(starts[node])
        lines.append(f"  {name:<{widths[0]}} : {kind:<{widths[1]}} = {call:<{min(widths[2], 80)}}  # {origin}")
    results = ", ".join(f"{name}={node.name}" for name, node in zip(program.outputs, program.results, strict=True))
    lines.append(f"  return {results}")
    return "\n".join(lines)


def print_call(program: Program, node: Node) -> str:
    """`op(operands, attribute=value)`; a weight is shown by name and format."""
    parts = [_operand(program, arg) for arg in node.args]
    parts += [f"{key}={value}" for key, value in node.kwargs.items()]
    return f"{node.target.name}({', '.join(parts)})"  # type: ignore[union-attr]


def _operand(program: Program, arg: Any) -> str:
    if isinstance(arg, Node) and arg.op == "get_attr":
        return f"{arg.target}:{program.weight(arg)}"
    return arg.name if isinstance(arg, Node) else str(arg)
