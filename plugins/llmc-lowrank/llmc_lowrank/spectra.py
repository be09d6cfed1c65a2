"""Spectra of matrices and the ranks they suggest: the arithmetic, without graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Rows = Callable[[int, int], Tensor]
"""Rows start to stop of a matrix `[N, K]`, float32."""

ROWS_AT_ONCE = 4096


def gram(rows: Rows, shape: tuple[int, int]) -> Tensor:
    """The products of a matrix's shorter side with itself: float64 `[M, M]`, M = min(N, K).

    `W^T W` of a tall matrix is summed up by blocks of its rows; a wide one is read whole.
    """
    count, size = shape
    if count < size:
        whole = rows(0, count).double()
        return whole @ whole.T
    total = torch.zeros(size, size, dtype=torch.float64)
    for start in range(0, count, ROWS_AT_ONCE):
        block = rows(start, min(start + ROWS_AT_ONCE, count)).double()
        total += block.T @ block
    return total


def energies(products: Tensor) -> Tensor:
    """The squared singular values, largest first, as shares of their sum: float64 `[M]`; all zero for a matrix of zeros."""
    values = torch.linalg.eigvalsh(products).flip(0).clamp(min=0)
    total = values.sum()
    return values / total if total > 0 else values


def basis(products: Tensor, rank: int) -> Tensor:
    """The first singular vectors of the shorter side: float32 `[M, rank]`, orthonormal.

    Projecting a matrix on them is its best approximation of that rank (Eckart and Young 1936).
    """
    return torch.linalg.eigh(products).eigenvectors.flip(1)[:, :rank].float().contiguous()


def rank_keeping(shares: Tensor, energy: float) -> int:
    """The smallest rank that keeps a share of the energy; at least 1."""
    kept = torch.cumsum(shares, 0)
    return min(int((kept < energy - 1e-12).sum()) + 1, len(shares))


@dataclass(frozen=True)
class Candidate:
    """Matrices that get one rank. shares: their mean spectrum; cost: elements that one more rank takes; whole: elements now."""

    shares: Tensor
    cost: int
    whole: int


def ranks_within(candidates: Sequence[Candidate], budget: float) -> list[int]:
    """Ranks that keep the most energy, all candidates counting alike, with at most `budget` times the elements there are now.

    Spectra fall, so taking what keeps the most for each element, one rank after another, is best; each gets at least 1. A rank
    at which a matrix takes as many elements as it does now is as good as all of it, and takes no more.
    """
    left = budget * sum(c.whole for c in candidates) - sum(c.cost for c in candidates)
    gains = [(float(share) / c.cost, i) for i, c in enumerate(candidates) for share in c.shares[1:]]
    gains.sort(key=lambda gain: -gain[0])
    ranks, full = [1] * len(candidates), [False] * len(candidates)
    for _, i in gains:
        c = candidates[i]
        if full[i]:
            continue
        more = min(c.cost, c.whole - ranks[i] * c.cost)
        if more > left:
            continue
        left -= max(more, 0)
        ranks[i] += 1
        full[i] = ranks[i] * c.cost >= c.whole
    return [len(c.shares) if done else rank for c, rank, done in zip(candidates, ranks, full, strict=True)]
