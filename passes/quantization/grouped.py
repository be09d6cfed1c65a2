"""Rounding to four bits in groups, with the scale that leaves the least error: the arithmetic, without graphs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from llmc.errors import PipelineError
from llmc.ir.formats import MIDDLE, Integer, pack_nibbles

HIGHEST = 15
"""The largest code."""

CHUNK_ELEMENTS = 1 << 18
"""Weights rounded at a time: what is computed of them stays in a cache."""

TRIED = tuple(0.7 + 0.025 * i for i in range(17))
"""Scales, as parts of the one with which the largest weight of a group has the outermost code."""

LEAST, COARSE = 2.0**-24, 2.0**-20
"""The least float16, and the scale below which float16 has fewer than four bits of it."""


def round_groups(rows: Tensor, form: Integer) -> dict[str, Tensor]:
    """Components of `form` (four bits) of float32 `[N, K]`: for each group that of a few scales with the least squared error.

    A scale that is tried gives codes; for these the best scale follows by least squares, `sum(code * w) / sum(code ** 2)`.
    Clipping the largest weights for a finer step is a gain for most groups (Choukroun et al. 2019, "Low-bit quantization of
    neural networks for efficient inference"). Symmetric groups may have a negative scale, so that the largest magnitude has
    the code 0, 8 steps from that of zero and not 7. A scale is zero for groups of zeros only. Raises PipelineError if a weight
    is no number, or too large for a scale in float16.
    """
    group = form.group or 0
    rows = F.pad(rows, (0, -rows.shape[1] % group))
    step = max(CHUNK_ELEMENTS // max(rows.shape[1], 1), 1)
    chunks = [_round(chunk.reshape(-1, group), form.zero_point) for chunk in rows.split(step)]
    codes, scale, zero = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    count = rows.shape[1] // group
    found = {"values": pack_nibbles(codes.view(rows.shape)), "scale": scale.view(-1, count)}
    return {**found, "zero": zero.view(-1, count)} if form.zero_point else found


def _round(w: Tensor, zero_point: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Codes uint8 `[n, group]`, scales float16 `[n]` and zero points uint8 `[n]` of groups `[n, group]`."""
    low, high = w.amin(1), w.amax(1)
    if zero_point:
        low, high = low.clamp(max=0), high.clamp(min=0)
        widest = (high - low) / HIGHEST
        zero = torch.where(widest > 0, torch.round(-low / widest), 0.0)
    else:
        widest = torch.where(high > -low, high, low) / -MIDDLE
        zero = torch.full_like(low, MIDDLE)
    best, gain = widest, torch.full_like(low, -1.0)
    for part in TRIED:
        levels = _levels(w, widest * part, zero)
        products, squares = torch.linalg.vecdot(levels, w), torch.linalg.vecdot(levels, levels).clamp(min=1)
        found = products * products / squares  # what the best scale for these codes takes off the squared error
        best = torch.where(found > gain, products / squares, best)
        gain = torch.maximum(found, gain)
    half = best.half()
    half = torch.where((half == 0) & (widest != 0), torch.copysign(torch.full_like(half, LEAST), half), half)
    if not torch.isfinite(half).all():
        raise PipelineError(f"weights of up to {w.abs().max():.3g} are beyond what scales in float16 reach")
    return (_levels(w, half.float(), zero) + zero[:, None]).to(torch.uint8), half, zero.to(torch.uint8)


def _levels(w: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Codes less the code of zero, as float32."""
    inverse, zero = torch.where(scale != 0, 1 / scale, 0.0)[:, None], zero[:, None]
    return (w * inverse).round_().add_(zero).clamp_(0, HIGHEST).sub_(zero)


def coarse_groups(scale: Tensor) -> tuple[int, int]:
    """How many groups have a scale (float16 `[N, K / group]`) too small to be held to four bits; how many are not all zero."""
    size = scale.abs()
    return int(((size > 0) & (size < COARSE)).sum()), int((size > 0).sum())
