"""The two factors of a weight, made when they are read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llmc.ir.formats import Dense
from llmc.ir.weights import Weight
from llmc_lowrank.spectra import ROWS_AT_ONCE, basis, gram


@dataclass(eq=False)
class Factorised:
    """`W ~ left @ right` for a matrix `[N, K]`: left `[N, rank]`, right `[rank, K]`, one of them orthonormal.

    The singular vectors are found once, when either factor is first read, and kept for the other.
    """

    weight: Weight
    rank: int

    @property
    def shape(self) -> tuple[int, int]:
        """N and K."""
        count, size = self.weight.shape
        return count, size

    @property
    def wide(self) -> bool:
        """Whether N is less than K, so that `left` is the orthonormal factor."""
        return self.shape[0] < self.shape[1]

    @cached_property
    def vectors(self) -> Tensor:
        """Of the shorter side: float32 `[min(N, K), rank]`."""
        return basis(gram(self.weight.evaluate, self.shape), self.rank)

    def left(self, start: int, stop: int) -> Tensor:
        """Rows of `left`."""
        return self.vectors[start:stop] if self.wide else self.weight.evaluate(start, stop) @ self.vectors

    def right(self, start: int, stop: int) -> Tensor:
        """Rows of `right`."""
        if not self.wide:
            return self.vectors[:, start:stop].T
        parts = range(0, self.shape[0], ROWS_AT_ONCE)
        products = [self.vectors[i : i + ROWS_AT_ONCE, start:stop].T @ self.weight.evaluate(i, i + ROWS_AT_ONCE) for i in parts]
        return torch.stack(products).sum(0)


@dataclass(eq=False)
class Factor(Weight):
    """One of the factors, stored as the matrix was."""

    of: Factorised
    first: bool
    """Whether it is `right`, which a linear layer multiplies with first."""

    def __post_init__(self) -> None:
        count, size = self.of.shape
        self.shape = (self.of.rank, size) if self.first else (count, self.of.rank)
        self.format = self.of.weight.format

    def parts(self, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        stop = self.shape[0] if stop is None else min(stop, self.shape[0])
        rows = (self.of.right if self.first else self.of.left)(start, stop)
        assert isinstance(self.format, Dense)
        return {"values": rows.to(getattr(torch, self.format.dtype)).contiguous()}
