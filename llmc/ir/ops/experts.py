"""Mixtures of experts (Shazeer et al. 2017): the largest of some numbers, and products with weights chosen by token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llmc.ir.op import op, require, require_float
from llmc.ir.ops.contractions import ROUNDINGS
from llmc.ir.types import TensorType


def _infer_top(x: TensorType, *, k: int) -> TensorType:
    require_float("top_k", x)
    require(x.streams and len(x.shape) >= 2, f"top_k takes values [T, ..., E], got {x}")
    require(0 < k <= int(x.shape[-1]), f"there are no {k} largest of {x}")
    return x.with_fixed((*x.fixed[:-1], k))


def _infer_top_indices(x: TensorType, *, k: int) -> TensorType:
    return _infer_top(x, k=k).with_fixed((*x.fixed[:-1], k), "int64")


def _compared(operands: list[Any], attributes: dict[str, Any], result: TensorType) -> int:
    return operands[0].width * int(attributes["k"])


@op(_infer_top, flops=_compared)
def top_k(x: Tensor, *, k: int) -> Tensor:
    """The k largest of the last dimension, largest first: `[T, ..., E]` to `[T, ..., k]`."""
    return torch.take_along_dim(x, top_k_indices.reference(x, k=k), -1)


@op(_infer_top_indices, flops=_compared)
def top_k_indices(x: Tensor, *, k: int) -> Tensor:
    """Where the k largest of the last dimension stand, int64; of equal ones the first comes first."""
    return torch.sort(x, stable=True, dim=-1, descending=True).indices[..., :k]


def _infer_linear(
    x: TensorType, chosen: TensorType, weight: TensorType, bias: Any = None, *, experts: int, activations: str = "float32"
) -> TensorType:
    require_float("expert_linear", x, weight, bias)
    require(chosen.dtype == "int64" and chosen.rows == x.rows, f"expert_linear needs chosen experts i64[T, k], got {chosen}")
    require(chosen.streams and len(chosen.shape) == 2, f"expert_linear needs chosen experts i64[T, k], got {chosen}")
    k = int(chosen.shape[1])
    fits = x.streams and len(x.shape) in (2, 3) and (len(x.shape) == 2 or x.shape[1] == k)
    require(fits, f"expert_linear reads values [T, K] or [T, {k}, K], got {x}")
    stacked = experts > 0 and not weight.streams and len(weight.shape) == 2
    require(stacked, f"expert_linear needs weights [E * N, K], got {weight}")
    rows = int(weight.shape[0])
    require(rows % experts == 0, f"the rows of {weight} are not shared out among {experts} experts")
    require(x.shape[-1] == weight.shape[1], f"expert_linear of {x} with weights {weight}")
    require(bias is None or bias.shape == (rows,), f"expert_linear needs a bias of [{rows}], got {bias}")
    require(activations in ROUNDINGS, f"expert_linear knows no activations '{activations}'; it knows {', '.join(ROUNDINGS)}")
    return TensorType("float32", (x.shape[0], k, rows // experts))


@op(_infer_linear, flops=lambda operands, attributes, result: 2 * result.width * int(operands[2].shape[1]))
def expert_linear(
    x: Tensor, chosen: Tensor, weight: Tensor, bias: Tensor | None = None, *, experts: int, activations: str = "float32"
) -> Tensor:
    """For each token the products with the weights of k chosen experts.

    x `[T, K]`, or `[T, k, K]` with a row for each expert; chosen int64 `[T, k]`; weight `[E * N, K]`, the matrices of the E
    experts one after another; bias `[E * N]`; result `[T, k, N]`. A number that is no expert's gives NaN. activations: as for
    `linear`.
    """
    x = ROUNDINGS[activations](x)
    rows = x if x.ndim == 3 else x[:, None].expand(-1, chosen.shape[1], -1)
    matrices = weight.view(experts, -1, weight.shape[1])
    result = rows.new_full((*chosen.shape, matrices.shape[1]), torch.nan)
    for expert in range(experts):
        mine = chosen == expert
        own = None if bias is None else bias.view(experts, -1)[expert]
        result[mine] = F.linear(rows[mine], matrices[expert], own)
    return result
