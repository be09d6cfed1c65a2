"""Counts of arithmetic and bytes: of an op, of a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from llmc.ir.composite import FusedOp
from llmc.ir.ops.attention import attention
from llmc.ir.program import Program, operand_types, type_of
from llmc.ir.types import TensorType

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
    values = [arg for arg in node.all_input_nodes if arg.op != "get_attr"]
    moved = sum(type_of(value).width * ELEMENT_BYTES[type_of(value).dtype] for value in [*values, node])
    return Cost(sum(flops_of(node)), moved, weight_bytes(program, node, 1))


def flops_of(node: Node) -> tuple[int, int]:
    """FLOPs for a token (or row), and besides for each position that it attends to."""
    found = {True: 0, False: 0}

    def count(op: Any, *operands: Any, **attributes: Any) -> TensorType:
        kind = op.infer(list(operands), attributes)
        found[op is attention] += op.flops(list(operands), attributes, kind)
        return kind

    op, operands = node.target, operand_types(node)
    if isinstance(op, FusedOp):
        op.write_out(count, operands, node.kwargs)
    else:
        count(op, *operands, **node.kwargs)
    return found[False], found[True]


def weight_bytes(program: Program, node: Node, tokens: int) -> int:
    """Bytes of weights that a node reads in a step of so many tokens or rows, once each, and nothing for none: of a table the
    rows, and of experts those, that any token is expected to choose, as if at random."""
    if not tokens:
        return 0
    read, name = 0.0, node.target.name  # type: ignore[union-attr]
    for arg in node.all_input_nodes:
        if arg.op == "get_attr":
            weight, share = program.weight(arg), 1.0
            if name == "embedding":
                picks = tokens * type_of(node.args[0]).width  # type: ignore[arg-type]
                share = 1 - (1 - 1 / max(weight.shape[0], 1)) ** picks
            elif name == "expert_linear":
                share = 1 - (1 - int(type_of(node).shape[1]) / int(node.kwargs["experts"])) ** tokens  # type: ignore[arg-type]
            read += weight.bytes * share
    return round(read)


def kept_bytes(value: Node) -> int:
    """Bytes of the keys or values of one token in a cache that keeps what was rounded in as many bits: of int8 with a scale for
    each head. What a backend keeps is `Executable.block_bytes`: some keep float32."""
    kind, rounded = type_of(value), value.kwargs.get("to") if getattr(value.target, "name", "") == "round_rows" else None
    if rounded == "int8":
        return kind.width + 4 * (kind.width // int(kind.shape[-1]))
    return kind.width * (2 if rounded == "bfloat16" else ELEMENT_BYTES[kind.dtype])


def cache_bytes_per_token(program: Program, element_bytes: int | None = None) -> int:
    """Bytes of keys and values that one token adds to the cache; layers that share a pair count once.

    element_bytes: of each number, rounded or not; None: as `kept_bytes`. Whole sequences need no cache.
    """
    if program.whole_sequences:
        return 0
    pairs = {(node.args[1], node.args[2]) for node in program.attentions}
    values = [value for pair in pairs for value in pair]
    if element_bytes is None:
        return sum(map(kept_bytes, values))  # type: ignore[arg-type]
    return sum(type_of(value).width * element_bytes for value in values)


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
