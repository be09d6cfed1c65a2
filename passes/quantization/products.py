"""What reads a matrix in the form it is stored in: products, and tables that are looked up."""

from __future__ import annotations

from torch.fx import Node

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.op import Op

PRODUCTS: dict[Op, int] = {ops.linear: 1, ops.gated_linear: 1, ops.expert_linear: 2}
"""Ops that multiply with a weight, and where among their operands it stands."""

READERS: dict[Op, int] = {**PRODUCTS, ops.embedding: 1}


def matrix(node: Node) -> Node:
    """The weight that a reader reads."""
    return node.args[READERS[node.target]]  # type: ignore[index,return-value]


def read(editor: Editor, node: Node, table: Node, activations: str) -> None:
    """Let a reader read another weight, and a product round what it multiplies with it."""
    slot = READERS[node.target]  # type: ignore[index]
    operands = (*node.args[:slot], table, *node.args[slot + 1 :])
    attributes = {**node.kwargs, "activations": activations} if node.target in PRODUCTS else node.kwargs
    with editor.before(node):
        editor.replace(node, editor.op(node.target, *operands, **attributes))  # type: ignore[arg-type]
    editor.graph.erase_node(node)
