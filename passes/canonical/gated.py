"""Recognise gated linear units."""

from __future__ import annotations

from llmc.ir import ops
from llmc.ir.pattern import ANY, Match, Pattern
from llmc.ir.program import Program, type_of
from llmc.ir.rewrite import Rule
from llmc.pipeline.base import Pass, PassContext

ACTIVATIONS: dict[str, Pattern] = {
    "silu": ops.silu(ANY.gate),
    "relu": ops.relu(ANY.gate),
    "gelu": ops.gelu(ANY.gate, approximate="none"),
    "gelu_tanh": ops.gelu(ANY.gate, approximate="tanh"),
}


class RaiseGated(Pass):
    """One `gated` op in place of an activation times another value of the same shape.

    Before:  silu(gate) * up
    After:   gated(gate, up, activation="silu")
    """

    name = "raise-gated"
    after = frozenset({"canonicalize", "raise-activations"})

    def run(self, program: Program, ctx: PassContext) -> Program:
        for activation, pattern in ACTIVATIONS.items():

            def build(editor, match, activation=activation):  # type: ignore[no-untyped-def]
                return editor.op(ops.gated, match["gate"], match["up"], activation=activation)

            program = program.rewrite(Rule(ops.mul(pattern, ANY.up), build, same_shape), ctx)
        return program


def same_shape(match: Match) -> str | None:
    """Gate and up must not broadcast, and up must not be a weight."""
    alike = type_of(match["gate"]) == type_of(match["up"])
    return None if alike else f"gate {type_of(match['gate'])} and up {type_of(match['up'])} differ"
