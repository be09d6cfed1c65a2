"""Programs over whole sequences: attention to later positions, and values of a sequence. A case's name begins with its op's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch.fx import Node

from llmc.conformance.programs import Make, heads, weight
from llmc.conformance.scores import HEADS, SHARED, SLOPES, SOFTCAP, f
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.ops.pooling import HOW
from llmc.ir.score import CAUSAL, SCORE, TRUE, K, Q, ScoreExpr
from llmc.runtime.contract import Batch, Context

BAND = f("logical_and", f("lt", f("sub", Q, K), 9), f("lt", f("sub", K, Q), 4))
AWAY = f("sub", SCORE, f("mul", SLOPES, f("abs", f("sub", Q, K))))


def attend(
    score: ScoreExpr = SCORE, admits: ScoreExpr = TRUE, reach: int | None = None, sunk: bool = False
) -> Make:
    """Two attentions: each head has keys of its own, and heads share them. reach: of a learned bias, in positions."""

    def make(e: Editor, a: Node, b: Node) -> Node:
        def over(keys: Node, values: Node) -> Node:
            sinks = weight(e, HEADS) if sunk else None
            extra = (sinks,) if reach is None else (sinks, weight(e, HEADS, 2 * reach + 1))
            query = heads(e, a, HEADS)
            made = e.op(ops.attention, query, keys, values, *extra, scale=0.5, score=score, admits=admits, causal=False)
            return e.op(ops.reshape, made, shape=(made.meta["type"].width,))

        keys = heads(e, b, HEADS)
        few = e.op(ops.slice_, keys, dim=1, start=0, stop=SHARED)
        return e.op(ops.concat, over(keys, keys), over(few, e.op(ops.slice_, few, dim=2, start=1, stop=6)), dim=1)

    return make


def pooled(e: Editor, a: Node, b: Node) -> Node:
    """Heads after an attention to later positions in every way, and then a product: a row for each sequence."""
    mixed = e.op(ops.reshape, attend()(e, a, b), shape=(6, 11))
    pool = e.op(ops.concat, *(e.op(ops.pool, mixed, how=how) for how in HOW), dim=1)
    flat = e.op(ops.reshape, pool, shape=(66 * len(HOW),))
    return e.op(ops.layer_norm, e.op(ops.linear, flat, weight(e, 21, 66 * len(HOW)), weight(e, 21)), eps=1e-5)


WHOLE: dict[str, Make] = {
    "attention": attend(),
    "attention-band": attend(AWAY, admits=BAND, sunk=True),
    "attention-bias": attend(reach=6),
    "attention-bias-wide": attend(SOFTCAP, reach=70, sunk=True),
    "attention-bias-earlier": attend(admits=CAUSAL, reach=6),
    "pool": pooled,
    "pool-first-of-ids": lambda e, a, b: e.op(ops.reshape, e.op(ops.pool, e.input("input_ids"), how="first"), shape=(1,)),
    "pool-last-of-conditions": lambda e, a, b: e.op(ops.pool, e.op(ops.gt, a, 0.0), how="last"),
}

def together(context: Context, prompts: list[list[int]]) -> list[NDArray[np.float32]]:
    """The first output of each of several sequences in one step."""
    batch = Batch.of_sequences({"input_ids": [np.array(ids) for ids in prompts]})
    values = np.asarray(next(iter(context.step(batch).values())))
    return np.split(values, range(1, len(prompts)) if len(values) == len(prompts) else batch.starts[1:-1])
