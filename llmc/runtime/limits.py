"""What a program may be given: the type of each input, and how many values the tables that it indexes have rows for."""

from __future__ import annotations

from torch.fx import Node

from llmc.ir.program import Program, type_of
from llmc.runtime.contract import InputSpec

VIEWS = ("select_rows", "reshape", "permute", "slice", "concat", "expand")
"""Ops that give elements of their operands as they are."""

Origins = frozenset[tuple[str, int]]
"""What elements of a value may be: pairs of (input, number added to it)."""


def input_specs(program: Program) -> dict[str, InputSpec]:
    """Of each input, in the program's order.

    A limit comes from tables that are indexed by the input itself, or by it and a whole number that is added; the values of an
    index that was computed otherwise (a clamp, a remainder) are the program's own care. An index from which a number is
    subtracted would be negative for the first values, so nothing is allowed then.
    """
    origins: dict[Node, Origins] = {}
    limits: dict[str, int] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            origins[node] = frozenset({(str(node.target), 0)})
        elif node.op == "call_function":
            origins[node] = _origins(node, origins)
            if node.target.name == "embedding":
                rows = int(type_of(node.args[1]).shape[0])
                for name, added in origins.get(node.args[0], ()):
                    limit = max(rows - added, 0) if added >= 0 else 0
                    limits[name] = min(limit, limits.get(name, limit))
    types = {str(node.target): type_of(node) for node in program.graph.nodes if node.op == "placeholder"}
    return {name: InputSpec(kind.dtype, kind.fixed, limits.get(name)) for name, kind in types.items()}


def _origins(node: Node, known: dict[Node, Origins]) -> Origins:
    name, operands = node.target.name, node.args  # type: ignore[union-attr]
    if name in VIEWS:
        return frozenset().union(*(known.get(arg, ()) for arg in operands))  # type: ignore[arg-type]
    if name in ("add", "sub"):
        stream, number = operands
        if name == "add" and isinstance(number, Node):
            stream, number = number, stream
        if isinstance(stream, Node) and isinstance(number, int):
            change = number if name == "add" else -number
            return frozenset((source, added + change) for source, added in known.get(stream, ()))
    return frozenset()
