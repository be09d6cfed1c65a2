"""When two attributes, two nodes, two programs are the same: exactly, which is more than equal.

1, 1.0 and True are equal to Python but not to the dialect, and so are 0.0 and -0.0.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch.fx import Node

from llmc.ir.program import Program


def attribute_key(value: Any) -> Hashable:
    """Equal for the same attribute or number only; numbers within score expressions and tuples count as well."""
    return type(value), repr(value)


def attributes_key(node: Node) -> Hashable:
    """Equal for nodes with the same attributes."""
    return tuple(sorted((key, attribute_key(value)) for key, value in node.kwargs.items() ))


def node_key(node: Node) -> Hashable:
    """Equal for nodes of one graph that compute the same: one op, one set of attributes, the same operands."""
    operands: list[Hashable] = [arg if isinstance(arg, Node) else attribute_key(arg) for arg in node.args]
    if node.target.commutative:  # type: ignore[union-attr]
        operands.sort(key=lambda arg: arg.name if isinstance(arg, Node) else repr(arg))
    return node.target, attributes_key(node), tuple(operands)


def identical(a: Program, b: Program) -> bool:
    """Whether two programs have the same nodes in the same order, the same outputs and the very same weights."""
    if a is b:
        return True
    nodes_a, nodes_b = list(a.graph.nodes), list(b.graph.nodes)
    same_weights = a.weights.keys() == b.weights.keys() and all(b.weights[name] is a.weights[name] for name in a.weights)
    if not same_weights or a.outputs != b.outputs or len(nodes_a) != len(nodes_b):
        return False
    counterpart = dict(zip(nodes_a, nodes_b, strict=True))
    return all(_alike(node, other, counterpart) for node, other in counterpart.items())


def _alike(node: Node, other: Node, counterpart: dict[Node, Node]) -> bool:
    if (node.op, node.target) != (other.op, other.target) or attributes_key(node) != attributes_key(other):
        return False
    if node.op == "output":
        return tuple(counterpart[result] for result in node.args[0]) == other.args[0]  # type: ignore[union-attr, index, misc]
    operands = [counterpart[arg] if isinstance(arg, Node) else attribute_key(arg) for arg in node.args]
    return operands == [arg if isinstance(arg, Node) else attribute_key(arg) for arg in other.args]
