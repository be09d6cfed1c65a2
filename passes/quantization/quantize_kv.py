"""Round keys and values on their way into the cache."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch.fx import Node

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.program import Program, origin_of
from llmc.pipeline.base import Pass, PassContext


class QuantizeKV(Pass):
    """Keys and values in int8 with a scale for each token and head, or in bfloat16.

    Queries and the weights of the softmax stay floats. Symmetric, to the nearest, no calibration: what a token brings is
    rounded once, when it is computed. Rotary positions come first, so keys are rounded as they are multiplied.

    Before:  attention(q, k, v)
    After:   attention(q, round_rows(k, to="int8"), round_rows(v, to="int8"))

    A backend may keep such rows in as few bits, as cpu does; for any other they are floats that were rounded.
    """

    name = "quantize-kv"
    provides = frozenset({"quantized-kv"})
    before = frozenset({"fuse-rope-cache"})
    after = frozenset({"raise-rope"})

    class Config(Pass.Config):
        """Options."""

        to: Literal["int8", "bfloat16"] = Field("int8", description="what keys and values are rounded to")

    def run(self, program: Program, ctx: PassContext) -> Program:
        if program.whole_sequences:
            for node in program.attentions:
                ctx.refused(origin_of(node), "the program runs over whole sequences, which have no cache")
            return program
        editor = program.edit(self.name)
        made: dict[Node, Node] = {}
        for node in [node for node in editor.nodes if node.target in ops.ATTENTIONS.values()]:
            reason = obstacle(node)
            if reason is None:
                ctx.matched(origin_of(node))
                self.read_rounded(editor, node, made)
            else:
                ctx.refused(origin_of(node), reason)
        return editor.finish() if made else program

    def read_rounded(self, editor: Editor, node: Node, made: dict[Node, Node]) -> None:
        """Let an attention read rounded keys and values; those that attentions share stay shared."""
        for slot in (1, 2):
            value: Node = node.args[slot]  # type: ignore[assignment]
            if value not in made:
                with editor.after(value, origin_of(node)):
                    made[value] = editor.op(ops.round_rows, value, to=self.config.to)
            node.update_arg(slot, made[value])


def obstacle(node: Node) -> str | None:
    """Why an attention is left alone, or None."""
    if node.target is ops.rope_attention:
        return "its keys are turned on their way into the cache; put quantize-kv before fuse-rope-cache"
    if any(arg.target is ops.round_rows for arg in node.args[1:3]):  # type: ignore[union-attr]
        return "its keys or values are rounded already"
    return None
