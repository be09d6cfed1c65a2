"""Rounding to whole numbers: the arithmetic, without graphs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = 127


def round_rows(rows: Tensor) -> dict[str, Tensor]:
    """Symmetric rounding of each row to int8: `values` int8 `[N, K]`, `scale` float32 `[N]`, from float32 `[N, K]`.

    The largest magnitude of a row becomes 127; a row of zeros has scale zero, and one of less than 4e-37 becomes zeros.
    """
    largest = rows.abs().amax(1)
    scale = largest / LEVELS
    inverse = LEVELS / largest
    inverse = torch.where(inverse < math.inf, inverse, torch.zeros_like(largest))
    values = torch.round(rows * inverse[:, None]).clamp(-LEVELS, LEVELS).to(torch.int8)
    return {"values": values, "scale": scale}
