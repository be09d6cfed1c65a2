"""Recognise normalizations that are written out."""

from __future__ import annotations

from collections.abc import Callable

from torch.fx import Node

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.pattern import ANY, SCALAR, WEIGHT, Match, Pattern
from llmc.ir.program import Program, type_of
from llmc.ir.rewrite import Rule
from llmc.pipeline.base import Pass, PassContext


def mean_square(x: Pattern) -> Pattern:
    """The mean of the squares along one dimension, as `dims`, kept."""
    squares = ops.mul(x, x) | ops.pow_(x, 2)
    return ops.mean(squares, dims=ANY_DIMS, keepdim=True)


class _Dims(Pattern):
    """The attribute of a reduction over one dimension; bound to `dims`."""

    def match(self, value, bound, inner):  # type: ignore[no-untyped-def]
        if isinstance(value, tuple | list) and len(value) == 1 and bound.get("dims", value[0]) == value[0]:
            yield {**bound, "dims": value[0]}, inner


ANY_DIMS = _Dims()


def divided_by_root(x: Pattern, square: Pattern) -> Pattern:
    """`x / sqrt(square)` in its two forms."""
    return ops.mul(x, ops.rsqrt(square)) | ops.div(x, ops.sqrt(square))


CENTRED = ops.sub(ANY.x, ops.mean(ANY.x, dims=ANY_DIMS, keepdim=True))
RMS = divided_by_root(ANY.x, ops.add(mean_square(ANY.x), SCALAR.eps))
LAYER = divided_by_root(CENTRED, ops.add(mean_square(CENTRED), SCALAR.eps))


class RaiseNorms(Pass):
    """One `rms_norm` or `layer_norm` op in place of a norm that is written out, its weight and bias included.

    Before:  x * rsqrt(mean(x * x) + eps) * w          (x - mean(x)) * rsqrt(mean((x - mean(x))^2) + eps) * w + b
    After:   rms_norm(x, w)                            layer_norm(x, w, b)
    """

    name = "raise-norms"
    after = frozenset({"canonicalize"})

    def run(self, program: Program, ctx: PassContext) -> Program:
        layer = Rule(LAYER, lambda e, m: e.op(ops.layer_norm, m["x"], eps=float(m["eps"])), over_last)
        rms = Rule(RMS, lambda e, m: e.op(ops.rms_norm, m["x"], eps=float(m["eps"])), over_last)
        for rule in (layer, rms):
            program = program.rewrite(rule, ctx)
        for pattern, build in AFFINE:
            program = program.rewrite(Rule(pattern, build, vector_of_last), ctx)
        return program


def over_last(match: Match) -> str | None:
    """The norm must be over the last dimension."""
    last = len(type_of(match["x"]).shape) - 1
    return None if match["dims"] == last else f"it is over dimension {match['dims']} of {type_of(match['x'])}"


def vector_of_last(match: Match) -> str | None:
    """Weights must have one number for each element of the last dimension."""
    size = type_of(match["x"]).shape[-1]
    fits = all(type_of(match[name]).shape == (size,) for name in ("w", "b") if match.get(name) is not None)
    return None if fits else "its weight has another shape"


Build = Callable[[Editor, Match], Node]
AFFINE: list[tuple[Pattern, Build]] = [
    (ops.mul(ops.rms_norm(ANY.x, eps=SCALAR.eps), WEIGHT.w),
     lambda e, m: e.op(ops.rms_norm, m["x"], m["w"], eps=m["eps"])),
    (ops.add(ops.mul(ops.layer_norm(ANY.x, eps=SCALAR.eps), WEIGHT.w), WEIGHT.b),
     lambda e, m: e.op(ops.layer_norm, m["x"], m["w"], m["b"], eps=m["eps"])),
    (ops.mul(ops.layer_norm(ANY.x, eps=SCALAR.eps), WEIGHT.w),
     lambda e, m: e.op(ops.layer_norm, m["x"], m["w"], eps=m["eps"])),
]  # fmt: skip
