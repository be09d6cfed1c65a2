"""Store weights in bfloat16, and multiply in it."""

from __future__ import annotations

from torch import Tensor
from torch.fx import Node

from llmc.ir import ops
from llmc.ir.formats import Dense
from llmc.ir.program import Program, origin_of
from llmc.ir.weights import Encoded
from llmc.pipeline.base import Pass, PassContext

BFLOAT16 = Dense("bfloat16")


class CastBfloat16(Pass):
    """Weights of linear layers, and tables, to bfloat16; what linear layers read is rounded to it as it comes.

    Before:  linear(x, W: f32)
    After:   linear(x, W: bf16, activations="bfloat16")

    A weight that any other op reads as well stays as it is, and so do vectors, such as those of norms and biases: they are few.
    """

    name = "cast-bfloat16"
    before = frozenset({"quantize"})

    def run(self, program: Program, ctx: PassContext) -> Program:
        editor = program.edit(self.name)
        for node in [node for node in editor.nodes if node.target in (ops.linear, ops.embedding)]:
            table: Node = node.args[1]  # type: ignore[assignment]
            name = str(table.target)
            weight = program.weights[name]
            other = next((user for user in table.users if user.target not in (ops.linear, ops.embedding)), None)
            if not isinstance(weight.format, Dense) or other is not None:
                why = f"is already {weight.format}" if other is None else f"is also read by {other.name}"
                ctx.refused(origin_of(node), f"'{name}' {why}")
                continue
            if weight.format != BFLOAT16:
                editor.set_weight(name, Encoded(weight, BFLOAT16, shorten))
            if node.target is ops.linear and node.kwargs.get("activations", "float32") == "float32":
                with editor.before(node):
                    editor.replace(node, editor.op(ops.linear, *node.args, **{**node.kwargs, "activations": "bfloat16"}))
                editor.graph.erase_node(node)
            elif weight.format == BFLOAT16:
                continue
            ctx.matched(origin_of(node))
        return editor.finish() if ctx.matches else program


def shorten(rows: Tensor) -> dict[str, Tensor]:
    """Each number rounded to the nearest bfloat16, half to even."""
    return {"values": rows.bfloat16()}
