"""Merge the gate and up projections of a gated feed-forward into one linear."""

from __future__ import annotations

from torch.fx import Node

from llmc.ir import ops
from llmc.ir.program import Program, origin_of
from llmc.ir.types import Origin
from llmc.passes.fusion.merge import merge_groups, obstacle
from llmc.pipeline.base import Pass, PassContext


class FuseGateUp(Pass):
    """One matrix product for the gate and up projections, which read the same value.

    Before:  gated(linear(x, Wg), linear(x, Wu))
    After:   gated(split) of linear(x, concat(Wg, Wu))
    """

    name = "fuse-gate-up"
    before = frozenset({"quantize"})
    after = frozenset({"raise-gated"})

    def run(self, program: Program, ctx: PassContext) -> Program:
        editor = program.edit(self.name)
        groups: list[tuple[Origin, list[Node]]] = []
        for gated in (node for node in editor.nodes if node.target is ops.gated):
            linears = [arg for arg in gated.args if isinstance(arg, Node) and arg.target is ops.linear]
            reason = "gate or up is no linear" if len(linears) < 2 else obstacle(editor, linears)
            if reason:
                ctx.refused(origin_of(gated), reason)
            else:
                groups.append((origin_of(gated), linears))
        return editor.finish() if merge_groups(editor, groups, ctx) else program
