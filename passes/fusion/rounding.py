"""Round rows for the products that read them where they are computed."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from llmc.ir import ops
from llmc.ir.program import Program, origin_of
from llmc.pipeline.base import Pass, PassContext

WITH_SUM = (ops.add_rms_norm, ops.add_layer_norm)
"""Ops that give two halves, of which the second is what may be rounded."""


class FuseRounding(Pass):
    """A norm or an activation gives its rows as the linear layers that read it round them: once for all, by the code that has
    the row at hand.

    Before:  linear(rms_norm(x, w), W: int8, activations="int8")
    After:   linear(rounded_rms_norm(x, w, to="int8"), W: int8, activations="int8")

    No bit changes: linear layers round what is rounded to itself. What is made by anything else is rounded by its readers.
    """

    name = "fuse-rounding"
    provides = frozenset({"fused"})
    after = frozenset({"quantize", "raise-norms", "raise-activations", "raise-gated", "fuse-residual-norm"})

    def run(self, program: Program, ctx: PassContext) -> Program:
        editor = program.edit(self.name)
        rounding = [n for n in editor.nodes if n.target in ops.ROUNDING and n.kwargs.get("activations", "float32") != "float32"]
        for value in dict.fromkeys(node.args[0] for node in rounding):
            maker = maker_of(value)  # type: ignore[arg-type]
            if maker.target not in ops.ROUNDED:
                continue
            reason = obstacle(value, maker)  # type: ignore[arg-type]
            if reason:
                ctx.refused(origin_of(maker), reason)
                continue
            ctx.matched(origin_of(maker))
            to = next(iter(value.users)).kwargs["activations"]  # type: ignore[union-attr]
            with editor.before(maker):
                rounded = editor.op(ops.ROUNDED[maker.target], *maker.args, **maker.kwargs, to=to)  # type: ignore[index]
                editor.replace(maker, rounded)
            editor.graph.erase_node(maker)
        return editor.finish() if ctx.matches else program


def maker_of(value: Node) -> Node:
    """The op whose rows a value is: itself, or the sum and norm that it is the second half of."""
    half = value.args[0] if value.target is ops.reshape else None
    if isinstance(half, Node) and half.target is ops.slice_ and half.kwargs["start"] == 1:
        whole: Node = half.args[0]  # type: ignore[assignment]
        if whole.target in WITH_SUM and len(half.users) == 1:
            return whole
    return value


def obstacle(value: Node, maker: Node) -> str | None:
    """Why the rows cannot be rounded where they are made, or None."""
    if maker is value and maker.target in WITH_SUM:
        return f"'{maker.name}' gives a sum and its norm, and only norms are rounded"
    others = [user for user in value.users if user.target not in ops.ROUNDING]
    if others:
        return f"'{others[0].name}' reads it as it is"
    if len({user.kwargs.get("activations") for user in value.users}) > 1:
        return "linear layers round it in different ways"
    if maker is not value and not all(is_half(user) for user in maker.users):
        return "it is read in other parts than its halves"
    return None


def is_half(node: Node) -> bool:
    """Whether a node is one half of the value that it reads."""
    where: Any = node.kwargs
    return node.target is ops.slice_ and where["dim"] == 1 and where["stop"] - where["start"] == 1
