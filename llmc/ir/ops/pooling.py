"""The one op that makes a value of a sequence out of values of its tokens."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from llmc.ir.op import op, require, require_float
from llmc.ir.types import SEQUENCES, TOKENS, TensorType

HOW: dict[str, Callable[[Tensor], Tensor]] = {
    "first": lambda x: x[0],
    "last": lambda x: x[-1],
    "mean": lambda x: x.mean(0),
    "sum": lambda x: x.sum(0),
    "max": lambda x: x.amax(0),
}
"""What becomes of the tokens `[T, ...]` of one sequence."""


def _infer_pool(x: TensorType, *, how: str) -> TensorType:
    require(x.rows == TOKENS, f"pool takes one entry a token, got {x}")
    require(how in HOW, f"pool knows no '{how}'; known: {', '.join(HOW)}")
    if how not in ("first", "last"):
        require_float("pool", x)
    return TensorType(x.dtype, (SEQUENCES, *x.shape[1:]))


@op(_infer_pool, flops=lambda operands, attributes, result: 0 if attributes["how"] in ("first", "last") else result.width)
def pool(x: Tensor, *, how: str) -> Tensor:
    """One entry for each sequence: `[T, ...]` to `[S, ...]`, of its first or last token, or mean, sum or max over its tokens.

    A program with such an op must be given whole sequences (`Program.whole_sequences`). The reference is of one sequence. FLOPs
    are counted per token.
    """
    return HOW[how](x)[None]
