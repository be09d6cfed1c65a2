"""Add a residual and normalize the sum in one op."""

from __future__ import annotations

from torch.fx import Node

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.program import Program, origin_of, type_of
from llmc.ir.types import Origin
from llmc.pipeline.base import Pass, PassContext

FUSED = {ops.rms_norm: ops.add_rms_norm, ops.layer_norm: ops.add_layer_norm}


class FuseResidualNorm(Pass):
    """One pass over the row for a sum and its norm, which are both read later.

    Before:  total = add(x, residual); rms_norm(total, w)
    After:   total, norm = the halves of add_rms_norm(x, residual, w)

    A second norm of the same sum stays as it is.
    """

    name = "fuse-residual-norm"
    provides = frozenset({"fused"})
    after = frozenset({"raise-norms", "quantize"})

    def run(self, program: Program, ctx: PassContext) -> Program:
        editor = program.edit(self.name)
        for norm in [node for node in editor.nodes if node.target in FUSED]:
            total: Node = norm.args[0]  # type: ignore[assignment]
            reason = obstacle(total)
            if reason:
                ctx.refused(origin_of(norm), reason)
            else:
                ctx.matched(origin_of(norm))
                fuse(editor, total, norm)
        return editor.finish() if ctx.matches else program


def obstacle(total: Node) -> str | None:
    """Why what a norm reads is no sum of two values that it could take in, or None."""
    if total.target is ops.reshape and is_half(total.args[0]):
        return "its sum is taken in by another norm"
    if total.target is not ops.add:
        return f"it normalizes no sum but what '{total.name}' gives"
    for operand in total.args:
        if not isinstance(operand, Node) or not type_of(operand).streams:
            return "what is added is the same for every token"
        if type_of(operand) != type_of(total):
            return f"what is added is {type_of(operand)}, repeated to {type_of(total)}"
    return None


def is_half(node: object) -> bool:
    """Whether a node is a half of what such an op gives."""
    return isinstance(node, Node) and node.target is ops.slice_ and node.args[0].target in FUSED.values()  # type: ignore[union-attr,operator]


def fuse(editor: Editor, total: Node, norm: Node) -> None:
    """Replace a sum and its norm by the halves of one op, where the sum was."""
    with editor.before(total, Origin.merge([origin_of(total), origin_of(norm)])):
        whole = editor.op(FUSED[norm.target], *total.args, *norm.args[1:], **norm.kwargs)  # type: ignore[index]
    for index, node in enumerate((total, norm)):
        with editor.before(total, origin_of(node)):
            half = editor.op(ops.slice_, whole, dim=1, start=index, stop=index + 1)
            value = editor.op(ops.reshape, half, shape=type_of(node).fixed)
        editor.replace(node, value)
    editor.graph.erase_node(norm)
    editor.graph.erase_node(total)
