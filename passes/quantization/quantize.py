"""Quantize the weights of linear layers, and round their inputs as they come."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Literal

from pydantic import Field

from llmc.ir import ops
from llmc.ir.formats import Dense, Integer
from llmc.ir.program import Program, origin_of
from llmc.ir.weights import Encoded
from llmc.passes.quantization.rounding import round_rows
from llmc.pipeline.base import Pass, PassContext


class Quantize(Pass):
    """Weights to int8 with a scale for each output channel; activations to int8 with a scale for each token, at run time.

    Round to nearest, no calibration (W8A8 with dynamic activations, as in Dettmers et al. 2022 without the outliers).

    Before:  linear(x, W: f32)
    After:   linear(x, W: int8, activations="int8")

    A table that an embedding shares with a linear layer is quantized for both. `skip` names weights to leave, by patterns
    such as `lm_head.*`.
    """

    name = "quantize"
    provides = frozenset({"quantized"})

    class Config(Pass.Config):
        """Options."""

        bits: Literal[8] = Field(8, description="bits of a weight")
        skip: tuple[str, ...] = Field((), description="patterns of weight names to leave as they are")

    def run(self, program: Program, ctx: PassContext) -> Program:
        editor = program.edit(self.name)
        done: set[str] = set()
        for node in [node for node in editor.nodes if node.target is ops.linear]:
            name = str(node.args[1].target)  # type: ignore[union-attr]
            weight = editor.weights[name]
            if any(fnmatch(name, pattern) for pattern in self.config.skip):
                ctx.refused(origin_of(node), f"'{name}' is skipped by the options")
                continue
            if not isinstance(weight.format, Dense) and name not in done:
                ctx.refused(origin_of(node), f"'{name}' is already {weight.format}")
                continue
            if name not in done:
                editor.weights[name] = Encoded(weight, Integer(8), round_rows)
                done.add(name)
                sharing = [user for user in node.args[1].users if user.target is ops.embedding]  # type: ignore[union-attr]
                if sharing:
                    ctx.note(f"'{name}' is also the table of {sharing[0].name}, which now reads int8")
            ctx.matched(origin_of(node))
            with editor.before(node):
                editor.replace(node, editor.op(ops.linear, *node.args, **{**node.kwargs, "activations": "int8"}))
            editor.graph.erase_node(node)
        return editor.finish() if done else program
