"""Store weights in bfloat16, and multiply in it."""

from __future__ import annotations

from torch import Tensor

from llmc.ir.formats import Dense
from llmc.ir.program import Program, origin_of
from llmc.ir.weights import Encoded
from llmc.passes.quantization.products import PRODUCTS, READERS, matrix, read
from llmc.pipeline.base import Pass, PassContext

BFLOAT16 = Dense("bfloat16")


class CastBfloat16(Pass):
    """Weights of linear layers and experts, and tables, to bfloat16; what they are multiplied with is rounded as it comes.

    Before:  linear(x, W: f32)
    After:   linear(x, W: bf16, activations="bfloat16")

    A weight that any other op reads as well stays as it is, and so do vectors, such as those of norms and biases: they are few.
    """

    name = "cast-bfloat16"
    before = frozenset({"quantize"})

    def run(self, program: Program, ctx: PassContext) -> Program:
        editor = program.edit(self.name)
        for node in [node for node in editor.nodes if node.target in READERS]:
            table = matrix(node)
            name = str(table.target)
            weight = program.weights[name]
            other = next((user for user in table.users if user.target not in READERS), None)
            if not isinstance(weight.format, Dense) or other is not None:
                why = f"is already {weight.format}" if other is None else f"is also read by {other.name}"
                ctx.refused(origin_of(node), f"'{name}' {why}")
                continue
            if weight.format != BFLOAT16:
                editor.set_weight(name, Encoded(weight, BFLOAT16, shorten))
            if node.target in PRODUCTS and node.kwargs.get("activations", "float32") == "float32":
                read(editor, node, table, "bfloat16")
            elif weight.format == BFLOAT16:
                continue
            ctx.matched(origin_of(node))
        return editor.finish() if ctx.matches else program


def shorten(rows: Tensor) -> dict[str, Tensor]:
    """Each number rounded to the nearest bfloat16, half to even."""
    return {"values": rows.bfloat16()}
