"""Counts of arithmetic and bytes: of an op, of a program."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from llmc.ir.program import Program, operand_types, type_of

ELEMENT_BYTES = {"float32": 4, "int64": 8, "bool": 1}


@dataclass(frozen=True)
class Cost:
    """Of one token (or output row): FLOPs, bytes of activations read and written; and bytes of weights read a step."""

    flops: int = 0
    activation_bytes: int = 0
    weight_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.activation_bytes + other.activation_bytes,
            self.weight_bytes + other.weight_bytes,
        )


def node_cost(program: Program, node: Node) -> Cost:
    """What one node costs. Of a table one row is read, of experts those chosen; attention counts one attended position."""
    flops = node.target.flops(operand_types(node), node.kwargs, type_of(node))  # type: ignore[union-attr]
    values = [arg for arg in node.all_input_nodes if arg.op != "get_attr"]
    moved = sum(type_of(value).width * ELEMENT_BYTES[type_of(value).dtype] for value in [*values, node])
    read = 0
    for arg in node.all_input_nodes:
        if arg.op == "get_attr":
            weight, name = program.weight(arg), node.target.name  # type: ignore[union-attr]
            if name == "embedding":
                read += weight.bytes // max(weight.shape[0], 1)
            elif name == "expert_linear":
                read += weight.bytes * int(type_of(node).shape[1]) // int(node.kwargs["experts"])  # type: ignore[arg-type]
            else:
                read += weight.bytes
    return Cost(flops, moved, read)


def cache_bytes_per_token(program: Program, element_bytes: int = 4) -> int:
    """Bytes of keys and values that one token adds to the cache; layers that share a pair count once.

    Whole sequences need no cache.
    """
    if program.whole_sequences:
        return 0
    pairs = {(node.args[1], node.args[2]) for node in program.attentions}
    return sum(type_of(value).width * element_bytes for pair in pairs for value in pair)


def total_cost(program: Program) -> Cost:
    """The sum over all nodes."""
    return sum((node_cost(program, node) for node in program.nodes), Cost())


def cost_by_op(program: Program) -> dict[str, Cost]:
    """The sum over the nodes of each op, by its name."""
    costs: dict[str, Cost] = {}
    for node in program.nodes:
        name = node.target.name  # type: ignore[union-attr]
        costs[name] = costs.get(name, Cost()) + node_cost(program, node)
    return costs
