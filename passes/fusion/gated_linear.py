"""Compute gates where the products that they are made of are computed."""

from __future__ import annotations

from torch.fx import Node

from llmc.ir import ops
from llmc.ir.program import Program, origin_of, type_of
from llmc.ir.types import Origin
from llmc.pipeline.base import Pass, PassContext


class FuseGatedLinear(Pass):
    """The merged gate and up projections give what is made of them: of what is twice as wide nothing is kept.

    Before:  gated(two halves of linear(x, W))
    After:   gated_linear(x, W)

    No bit changes.
    """

    name = "fuse-gated-linear"
    provides = frozenset({"fused"})
    after = frozenset({"quantize", "cast-bfloat16", "raise-gated", "fuse-gate-up"})
    before = frozenset({"fuse-rounding"})

    def run(self, program: Program, ctx: PassContext) -> Program:
        editor = program.edit(self.name)
        for gated in [node for node in editor.nodes if node.target is ops.gated]:
            whole = halved(gated)
            if whole is None:
                ctx.refused(origin_of(gated), "gate and up are no halves of one linear that nothing else reads")
                continue
            origin = Origin.merge([origin_of(whole), origin_of(gated)])
            ctx.matched(origin)
            halves = gated.all_input_nodes
            with editor.before(gated, origin):
                fused = editor.op(ops.gated_linear, *whole.args, **whole.kwargs, activation=gated.kwargs["activation"])
                editor.replace(gated, fused)
            for node in (gated, *halves, whole):
                editor.graph.erase_node(node)
        return editor.finish() if ctx.matches else program


def halved(gated: Node) -> Node | None:
    """The linear of which a gate is the first half and what it is multiplied with the second, if that is all that is read."""
    halves = gated.all_input_nodes
    if any(node.target is not ops.slice_ or len(node.users) > 1 for node in halves) or len(halves) < 2:
        return None
    gate, up = halves
    whole: Node = gate.args[0]  # type: ignore[assignment]
    if whole.target is not ops.linear or up.args[0] is not whole or len(whole.users) > 2:
        return None
    last, size = len(type_of(whole).shape) - 1, int(type_of(whole).shape[-1]) // 2
    wanted = [{"dim": last, "start": start, "stop": start + size} for start in (0, size)]
    found = [{key: value for key, value in node.kwargs.items() if (key, value) != ("step", 1)} for node in halves]
    return whole if found == wanted else None
