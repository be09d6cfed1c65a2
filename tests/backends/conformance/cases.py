"""Every op of the dialect in float32, each in the forms that a backend may take for different things.

A case's name is the op's, or the op's and after a dash what is special.
"""

from __future__ import annotations

import torch
from torch.fx import Node

from llmc.conformance.fused import FUSED
from llmc.conformance.programs import WIDTH, Make, angles, heads, weight
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.op import Op
from llmc.ir.ops.norms import ACTIVATIONS
from llmc.ir.score import CAUSAL, SCORE
from llmc.ir.weights import Stored


def op_of(case: str) -> str:
    """The op that a case is about."""
    return case.split("-")[0]


def positive(e: Editor, x: Node) -> Node:
    return e.op(ops.add, e.op(ops.abs_, x), 0.1)


def unary(op: Op) -> Make:
    return lambda e, a, b: e.op(op, positive(e, a) if op.name in ("log", "sqrt", "rsqrt") else a)


def binary(op: Op) -> Make:
    return lambda e, a, b: e.op(op, a, b)


def whole(op: Op) -> Make:
    """On positions, which are whole numbers, and another whole number."""
    return lambda e, a, b: e.op(ops.reshape, e.op(op, e.input("position"), 3), shape=(1,))


def gate(activation: str) -> Make:
    return lambda e, a, b: e.op(ops.gated, a, b, activation=activation)


def turned(pairs: int, layout: str) -> Make:
    return lambda e, a, b: e.op(ops.rope, heads(e, a), *angles(e, pairs), layout=layout)


def attended(e: Editor, a: Node, b: Node) -> Node:
    return e.op(ops.attention, heads(e, a), heads(e, b), heads(e, b), scale=0.3, score=SCORE, admits=CAUSAL)


def remembered(to: str) -> Make:
    """An attention over keys and values that are rounded first."""

    def make(e: Editor, a: Node, b: Node) -> Node:
        keys, values = (e.op(ops.round_rows, heads(e, x), to=to) for x in (b, a))
        return e.op(ops.attention, heads(e, a), keys, values, scale=0.3, score=SCORE, admits=CAUSAL)

    return make


def chosen(e: Editor, x: Node, k: int = 2, experts: int = 5) -> Node:
    """The k experts of the largest numbers of each token."""
    return e.op(ops.top_k_indices, e.op(ops.linear, x, weight(e, experts, WIDTH)), k=k)


def of_experts(e: Editor, a: Node, b: Node) -> Node:
    """Both products of a layer of experts, the second with a row for each."""
    mine = chosen(e, b)
    inner = e.op(ops.expert_linear, a, mine, weight(e, 5 * 21, WIDTH, scale=0.2), weight(e, 5 * 21), experts=5)
    return e.op(ops.expert_linear, e.op(ops.tanh, inner), mine, weight(e, 5 * 7, 21), experts=5)


def part(e: Editor, x: Node, dim: int, start: int, stop: int, step: int = 1) -> Node:
    return e.op(ops.slice_, x, dim=dim, start=start, stop=stop, step=step)


def above(e: Editor, x: Node, number: float = 0.0) -> Node:
    return e.op(ops.gt, x, number)


def truths(e: Editor, *shape: int) -> Node:
    return e.weight(Stored(torch.rand(shape) < 0.5), "truths")


CASES: dict[str, Make] = {
    **{name: unary(op) for name, op in ops.UNARY.items()},
    **{name: binary(op) for name, op in ops.BINARY.items() if not name.startswith("logical")},
    **{f"{op.name}-whole": whole(op) for op in (ops.add, ops.sub, ops.mul, ops.maximum, ops.minimum, ops.eq, ops.lt)},
    **{f"gated-{name}": gate(name) for name in ACTIVATIONS},
    "pow": lambda e, a, b: e.op(ops.pow_, positive(e, a), 1.7),
    "logical_and": lambda e, a, b: e.op(ops.logical_and, above(e, a), above(e, b)),
    "logical_or": lambda e, a, b: e.op(ops.logical_or, above(e, a), e.op(ops.lt, b, 0.3)),
    "logical_not": lambda e, a, b: e.op(ops.logical_not, above(e, a)),
    "eq-same": lambda e, a, b: e.op(ops.eq, a, e.op(ops.where, above(e, b), a, b)),
    "where": lambda e, a, b: e.op(ops.where, above(e, a), a, e.op(ops.mul, b, 2.0)),
    "where-number": lambda e, a, b: e.op(ops.where, above(e, a), 1.5, b),
    "where-weight": lambda e, a, b: e.op(ops.where, truths(e, WIDTH), a, b),
    "cast": lambda e, a, b: e.op(ops.cast, e.op(ops.mul, a, 3.0), dtype="int64"),
    "cast-bool": lambda e, a, b: e.op(ops.cast, e.op(ops.maximum, a, 0.0), dtype="bool"),
    "gelu": lambda e, a, b: e.op(ops.gelu, a, approximate="none"),
    "gelu-tanh": lambda e, a, b: e.op(ops.gelu, a, approximate="tanh"),
    "sub-number-left": lambda e, a, b: e.op(ops.sub, 1.0, a),
    "mul-broadcast": lambda e, a, b: e.op(ops.mul, heads(e, a), part(e, heads(e, b), 1, 1, 2)),
    "mul-weight": lambda e, a, b: e.op(ops.mul, heads(e, a), weight(e, 3, 1)),
    "mul-row-weight": lambda e, a, b: e.op(ops.mul, heads(e, a), weight(e, 12)),
    "embedding": lambda e, a, b: e.op(ops.add, a, b),
    "embedding-position": lambda e, a, b: e.op(ops.embedding, e.op(ops.add, e.input("position"), 2), weight(e, 60, 8)),
    "linear": lambda e, a, b: e.op(ops.linear, a, weight(e, 21, WIDTH), weight(e, 21)),
    "linear-heads": lambda e, a, b: e.op(ops.linear, heads(e, a), weight(e, 5, 12)),
    "linear-of-slice": lambda e, a, b: e.op(ops.linear, part(e, a, 1, 7, 27), weight(e, 33, 20)),
    "linear-of-sliced-heads": lambda e, a, b: e.op(ops.linear, part(e, heads(e, a), 1, 1, 3), weight(e, 5, 12)),
    "linear-long": lambda e, a, b: e.op(ops.linear, e.op(ops.linear, a, weight(e, 600, WIDTH)), weight(e, 18, 600)),
    "matmul": lambda e, a, b: e.op(ops.matmul, heads(e, a), e.op(ops.permute, heads(e, b), dims=(2, 1))),
    "matmul-batched": lambda e, a, b: e.op(
        ops.matmul, e.op(ops.reshape, a, shape=(2, 3, 6)), e.op(ops.reshape, b, shape=(2, 6, 3))
    ),
    "rms_norm": lambda e, a, b: e.op(ops.rms_norm, a, weight(e, WIDTH), eps=1e-5),
    "rms_norm-heads": lambda e, a, b: e.op(ops.rms_norm, heads(e, a), eps=1e-5),
    "layer_norm": lambda e, a, b: e.op(ops.layer_norm, a, weight(e, WIDTH), weight(e, WIDTH), eps=1e-5),
    "layer_norm-plain": lambda e, a, b: e.op(ops.layer_norm, heads(e, a), eps=1e-5),
    "rope": turned(6, "halves"),
    "rope-partial": turned(4, "halves"),
    "rope-pairs": turned(6, "pairs"),
    "attention": attended,
    "attention-of-int8": remembered("int8"),
    "attention-of-bfloat16": remembered("bfloat16"),
    "sum": lambda e, a, b: e.op(ops.sum_, heads(e, a), dims=(1,), keepdim=False),
    "mean": lambda e, a, b: e.op(ops.mean, heads(e, a), dims=(2,), keepdim=True),
    "mean-all": lambda e, a, b: e.op(ops.mean, heads(e, a), dims=(1, 2), keepdim=False),
    "amax": lambda e, a, b: e.op(ops.amax, heads(e, a), dims=(1,), keepdim=True),
    "amin": lambda e, a, b: e.op(ops.amin, heads(e, a), dims=(2,), keepdim=False),
    "softmax": lambda e, a, b: e.op(ops.softmax, heads(e, a), dim=1),
    "softmax-last": lambda e, a, b: e.op(ops.softmax, a, dim=1),
    "reshape": lambda e, a, b: e.op(ops.mul, e.op(ops.reshape, a, shape=(2, 18)), e.op(ops.reshape, b, shape=(2, 18))),
    "permute": lambda e, a, b: e.op(ops.permute, e.op(ops.reshape, a, shape=(2, 3, 6)), dims=(3, 1, 2)),
    "slice": lambda e, a, b: part(e, a, 1, 1, 30, 4),
    "slice-inner": lambda e, a, b: part(e, heads(e, a), 2, 2, 9),
    "concat": lambda e, a, b: e.op(ops.concat, heads(e, a), heads(e, b), heads(e, a), dim=2),
    "concat-outer": lambda e, a, b: e.op(ops.concat, heads(e, a), e.op(ops.neg, heads(e, b)), dim=1),
    "expand": lambda e, a, b: e.op(ops.expand, e.op(ops.reshape, a, shape=(3, 1, 12)), shape=(3, 4, 12)),
    "top_k": lambda e, a, b: e.op(ops.top_k, heads(e, a), k=3),
    "top_k-all": lambda e, a, b: e.op(ops.top_k, a, k=WIDTH),
    "top_k_indices": lambda e, a, b: e.op(ops.top_k_indices, heads(e, a), k=3),
    "top_k_indices-equal": lambda e, a, b: e.op(ops.top_k_indices, e.op(ops.maximum, a, 0.5), k=30),
    "expert_linear": of_experts,
    "expert_linear-one": lambda e, a, b: e.op(ops.expert_linear, a, chosen(e, b, 1, 1), weight(e, 33, WIDTH), experts=1),
    "expert_linear-same": lambda e, a, b: e.op(
        ops.expert_linear, a, e.op(ops.expand, chosen(e, b, 1), shape=(3,)), weight(e, 5 * 4, WIDTH), experts=5
    ),
    "round_rows": lambda e, a, b: e.op(ops.round_rows, heads(e, a), to="int8"),
    "round_rows-bfloat16": lambda e, a, b: e.op(ops.round_rows, a, to="bfloat16"),
    **FUSED,
    "select_rows": lambda e, a, b: e.op(ops.exp, e.op(ops.select_rows, a)),
}
