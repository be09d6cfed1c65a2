"""The one op that relates positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmc.ir.op import op, require, require_float
from llmc.ir.score import TRUE, ScoreContext, ScoreExpr, implies_causal
from llmc.ir.score_check import admits_problem, score_problem
from llmc.ir.types import TensorType


def _infer(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    sinks: Any = None,
    bias: Any = None,
    *,
    scale: float,
    score: ScoreExpr,
    admits: ScoreExpr,
    causal: bool = True,
) -> TensorType:
    require_float("attention", q, k, v, sinks, bias)
    heads_first = all(t.rows == "T" and len(t.shape) == 3 for t in (q, k, v))
    require(heads_first, f"attention needs q, k, v [T, H, D], got {q}, {k}, {v}")
    heads, kv_heads = q.fixed[0], k.fixed[0]
    require(v.fixed[0] == kv_heads and heads % kv_heads == 0, f"attention of {heads} heads over {k} and {v}")
    require(q.fixed[1] == k.fixed[1], f"attention of q {q} with k {k}: head sizes differ")
    require(sinks is None or sinks.shape == (heads,), f"attention needs one sink a head, got {sinks}")
    fits = bias is None or (len(bias.shape) == 2 and bias.shape[0] == heads and bias.shape[1] % 2 == 1)
    require(fits, f"attention needs a bias [{heads}, 2 M + 1] for distances up to M either way, got {bias}")
    require(bias is None or not causal, "attention has a learned bias over whole sequences only: causal=False")
    problem = score_problem(score, heads) or admits_problem(admits, heads)
    require(problem is None, f"attention: {problem}")
    problem = "it has no mask" if admits == TRUE else f"its keys are those where {admits}"
    require(not causal or implies_causal(admits), f"attention is not proved to leave out later positions: {problem}")
    return TensorType("float32", ("T", heads, v.fixed[1]))


def _flops(operands: list[Any], attributes: dict[str, Any], result: TensorType) -> int:
    return 2 * (operands[0].width + result.width)


@op(_infer, flops=_flops)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    scale: float,
    score: ScoreExpr,
    admits: ScoreExpr,
    causal: bool = True,
    context: Any,
) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017) with grouped heads: q `[T, H, D]`, k `[S, G, D]`, v `[S, G, Dv]`.

    For each head the products `scale * q.k` go through the expression `score`; keys for which `admits` is false are left out;
    the softmax over the rest, with the head's sink `[H]` added to its denominator, weighs v. Head h reads key head
    h // (H / G). A `bias` `[H, 2 M + 1]` of learned numbers (Shaw et al. 2018) is added to scores by the distance k - q, its
    outermost numbers beyond M. `admits` must be proved to leave out later positions, unless `causal` is false: then a step has
    to be given whole sequences (`Program.whole_sequences`), and there may be a bias. `context` gives `q_position [T]` and
    `k_position [S]`. FLOPs are counted per token and attended position.
    """
    group = q.shape[1] // k.shape[1]
    keys = k.repeat_interleave(group, 1) if group > 1 else k
    values = v.repeat_interleave(group, 1) if group > 1 else v
    raw = torch.einsum("thd,shd->hts", q, keys) * scale
    head = torch.arange(q.shape[1], device=q.device).view(-1, 1, 1)
    variables = ScoreContext(raw, head, context.q_position.view(1, -1, 1), context.k_position.view(1, 1, -1))
    allowed = admits.evaluate(variables).expand_as(raw)
    scores = score.evaluate(variables).to(raw.dtype).expand_as(raw)
    if bias is not None:
        most = bias.shape[1] // 2
        scores = scores + bias[:, (variables.k - variables.q)[0].clamp(-most, most) + most]
    scores = scores.masked_fill(~allowed, -torch.inf)
    if sinks is not None:
        scores = torch.cat((scores, sinks.view(-1, 1, 1).expand(-1, q.shape[0], 1).to(scores.dtype)), -1)
    weights = torch.softmax(scores, -1)[..., : keys.shape[0]]
    return torch.einsum("hts,shd->thd", weights, values)
