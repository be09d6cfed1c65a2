"""Merge the projections of queries, keys and values into one linear."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from llmc.ir import ops
from llmc.ir.program import Program, origin_of
from llmc.ir.types import Origin
from llmc.passes.fusion.merge import merge_groups, obstacle
from llmc.pipeline.base import Pass, PassContext

PASSED = (ops.reshape, ops.permute, ops.rope, ops.rms_norm, ops.layer_norm)
"""Ops between a projection and the attention that treat each head alone."""


class FuseQKV(Pass):
    """One matrix product for the query, key and value projections, which read the same value.

    Before:  attention(rope(linear(x, Wq)), rope(linear(x, Wk)), linear(x, Wv))
    After:   attention(rope(split), rope(split), split) of linear(x, concat(Wq, Wk, Wv))
    """

    name = "fuse-qkv"
    before = frozenset({"quantize"})  # one row scale rule over the merged weight
    after = frozenset({"raise-rope", "raise-norms"})

    def run(self, program: Program, ctx: PassContext) -> Program:
        editor = program.edit(self.name)
        groups: list[tuple[Origin, list[Node]]] = []
        for attention in (node for node in editor.nodes if node.target is ops.attention):
            found = [projection(arg) for arg in attention.args[:3]]
            linears = [node for node in found if node is not None]
            reason = "a projection was not found" if len(linears) < 3 else obstacle(editor, linears)
            if reason:
                ctx.refused(origin_of(attention), reason)
            else:
                groups.append((origin_of(attention), linears))
        return editor.finish() if merge_groups(editor, groups, ctx) else program


def projection(node: Any) -> Node | None:
    """The linear that a query, key or value comes from, or None."""
    while isinstance(node, Node) and node.target in PASSED:
        node = node.args[0]
    return node if isinstance(node, Node) and node.target is ops.linear else None
