"""Recognise activation functions that are written out."""

from __future__ import annotations

import math

from llmc.ir import ops
from llmc.ir.pattern import ANY, SCALAR, Match, Pattern
from llmc.ir.program import Program
from llmc.ir.rewrite import Rule
from llmc.pipeline.base import Pass, PassContext

CUBE = ops.mul(ops.mul(ANY.x, ANY.x), ANY.x) | ops.pow_(ANY.x, 3)
INNER = ops.mul(ops.add(ANY.x, ops.mul(CUBE, SCALAR.cubic)), SCALAR.root)




def halved_product(bracket: Pattern) -> Pattern:
    """`0.5 * x * bracket` in any association."""
    first = ops.mul(ops.mul(ANY.x, 0.5), bracket)
    return first | ops.mul(ops.mul(ANY.x, bracket), 0.5) | ops.mul(ANY.x, ops.mul(bracket, 0.5))


SILU = ops.mul(ANY.x, ops.sigmoid(ANY.x))
GELU_TANH = halved_product(ops.add(ops.tanh(INNER), 1))
GELU = halved_product(ops.add(ops.erf(ops.div(ANY.x, SCALAR.root) | ops.mul(ANY.x, SCALAR.inverse)), 1))


def constants_of(**expected: float) -> object:
    """A check that the numbers of the formula are the right ones."""

    def check(match: Match) -> str | None:
        for name, value in expected.items():
            if match.get(name) is not None and not math.isclose(match[name], value, rel_tol=1e-4):
                return f"its constant is {match[name]}, not {value:.6f}"
        return None

    return check


class RaiseActivations(Pass):
    """One `silu` or `gelu` op in place of an activation function that is written out.

    Before:  x * sigmoid(x)      0.5 * x * (1 + tanh(0.79788 * (x + 0.044715 * x^3)))
    After:   silu(x)             gelu(x, approximate="tanh")
    """

    name = "raise-activations"
    after = frozenset({"canonicalize"})

    def run(self, program: Program, ctx: PassContext) -> Program:
        tanh_constants = constants_of(cubic=0.044715, root=math.sqrt(2 / math.pi))
        erf_constants = constants_of(root=math.sqrt(2), inverse=math.sqrt(0.5))
        rules = (
            Rule(SILU, lambda e, m: e.op(ops.silu, m["x"])),
            Rule(GELU_TANH, lambda e, m: e.op(ops.gelu, m["x"], approximate="tanh"), tanh_constants),  # type: ignore[arg-type]
            Rule(GELU, lambda e, m: e.op(ops.gelu, m["x"], approximate="none"), erf_constants),  # type: ignore[arg-type]
        )
        for rule in rules:
            program = program.rewrite(rule, ctx)
        return program
