"""Tables over pairs of positions: a buffer counts as a mask or a bias only after its values were looked at."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmc.capture.values import Refusal
from llmc.ir.score import K, Q, ScoreExpr, apply, const, per_head

MOST_STRETCHES = 4


def table_expression(values: Tensor) -> ScoreExpr:
    """The expression of a table `[n, n]` or `[heads, n, n]` over (head, query, key).

    It must depend on the distance alone: a few stretches of equal numbers (causal masks, windows), or a line that falls with
    the distance at a slope of each head (Press et al. 2022), beside a stretch of one number if the line stops at distance 0.
    Raises Refusal for anything else.
    """
    size = min(values.shape[-2:])
    by_distance = distances_of(values[..., :size, :size].reshape(-1, size, size))
    if bool((by_distance == by_distance[:1]).all()):
        made = stretches(by_distance[0])
        if made is not None:
            return made
    return line(by_distance, size)


def distances_of(values: Tensor) -> Tensor:
    """`[heads, 2 n - 1]`: the value at each distance q - k from 1 - n to n - 1."""
    size = values.shape[-1]
    place = torch.arange(size)
    index = (place[:, None] - place[None, :] + size - 1).expand_as(values).reshape(len(values), -1)
    found = torch.zeros(len(values), 2 * size - 1, dtype=values.dtype)
    found.scatter_(1, index, values.reshape(len(values), -1))
    if not torch.equal(found.gather(1, index), values.reshape(len(values), -1)):
        raise Refusal("a table over pairs of positions that depends on more than their distance")
    return found


def stretches(values: Tensor) -> ScoreExpr | None:
    """Equal numbers over a few stretches of distances, or None."""
    size = (len(values) + 1) // 2
    starts = [0, *(torch.nonzero(values[1:] != values[:-1]).flatten() + 1).tolist()]
    if len(starts) > MOST_STRETCHES:
        return None
    result = const(number(values[starts[-1]]))
    for start, following in zip(reversed(starts[:-1]), reversed(starts[1:]), strict=True):
        result = apply("where", before(following - size + 1), const(number(values[start])), result)
    return result


def before(distance: int) -> ScoreExpr:
    """Whether q - k is below a distance."""
    if distance == 0:
        return apply("gt", K, Q)
    return apply("lt", apply("sub", Q, K), const(distance))


def line(values: Tensor, size: int) -> ScoreExpr:
    """`slope * (k - q)` for each head where the key is not later, and the same line or one number where it is."""
    if not values.is_floating_point() or size < 3:
        raise Refusal("a table over pairs of positions whose values are neither those of a mask nor a linear bias")
    distance = torch.arange(size, dtype=torch.float64)
    earlier, later = values[:, size - 1 :].double(), values[:, : size - 1].double()
    slopes = -earlier[:, 1]
    if not torch.allclose(earlier, -slopes[:, None] * distance, rtol=1e-5, atol=1e-6):
        raise Refusal("a table over pairs of positions whose values are neither those of a mask nor a linear bias")
    bias = apply("mul", per_head(slopes.float().tolist()), apply("sub", K, Q))
    if torch.allclose(later, slopes[:, None] * distance[1:].flip(0), rtol=1e-5, atol=1e-6):
        return bias
    if len(later.unique()) != 1:
        raise Refusal("a bias over pairs of positions that is no line for later keys, nor one number")
    return apply("where", before(0), const(number(later[0, 0].to(values.dtype))), bias)


def number(value: Tensor) -> float | int | bool:
    """The element of a tensor as a number."""
    found = value.item()
    return -math.inf if found == -math.inf else found
