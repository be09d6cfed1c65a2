"""Merge the gate and up projections of a gated feed-forward into one linear."""

from __future__ import annotations

from llmc.ir import ops
from llmc.ir.program import Program, origin_of
from llmc.passes.fusion.merge import merge_linears, obstacle
from llmc.pipeline.base import Pass, PassContext


class FuseGateUp(Pass):
    """One matrix product in place of two that read the same value.

    Before:  gated(linear(x, Wg), linear(x, Wu))
    After:   gated(split) of linear(x, concat(Wg, Wu))
    """

    name = "fuse-gate-up"
    before = frozenset({"quantize"})
    after = frozenset({"raise-gated"})

    def run(self, program: Program, ctx: PassContext) -> Program:
        editor = program.edit(self.name)
        merged = False
        for gated in (node for node in editor.nodes if node.target is ops.gated):
            linears = [arg for arg in gated.args if arg.target is ops.linear]  # type: ignore[union-attr]
            reason = "gate or up is no linear" if len(linears) < 2 else obstacle(editor, linears)  # type: ignore[arg-type]
            if reason:
                ctx.refused(origin_of(gated), reason)
                continue
            ctx.matched(origin_of(gated))
            merge_linears(editor, linears)  # type: ignore[arg-type]
            merged = True
        return editor.finish() if merged else program
