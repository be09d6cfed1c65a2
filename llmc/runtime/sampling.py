"""From logits to a token: greedy, temperature, top-k, and top-p (nucleus sampling, Holtzman et al. 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmc.errors import InputError

UNUSABLE = "the model gave logits that are NaN or +inf, or all -inf; it cannot be sampled from"


@dataclass(frozen=True)
class SamplingOptions:
    """How a token is chosen. Raises InputError naming the option that cannot be used.

    temperature: divides the logits; 0 takes the most likely token.
    top_k: only the k most likely tokens are considered; 0 means all.
    top_p: of those, only the fewest whose probabilities sum to at least p.
    seed: fixes the choices.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (_is_number(self.temperature) and 0 <= self.temperature < math.inf):
            raise InputError(f"temperature must be a number from 0 upwards, not {self.temperature!r}")
        if not (is_integer(self.top_k) and self.top_k >= 0):
            raise InputError(f"top_k must be a whole number from 0 (off) upwards, not {self.top_k!r}")
        if not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            raise InputError(f"top_p must be above 0 and at most 1, not {self.top_p!r}")
        if not (is_integer(self.seed) and self.seed >= 0):
            raise InputError(f"seed must be a whole number from 0 upwards, not {self.seed!r}")


def is_integer(value: Any) -> bool:
    """Whether a value is a whole number, of Python or NumPy; True and False are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return is_integer(value) or isinstance(value, float | np.floating)


def greedy(place: int) -> int:
    """The most likely token, from where the largest logit is (`Context.step_largest`). Raises InputError as `sample` does."""
    if place < 0:
        raise InputError(UNUSABLE)
    return place


def sample(logits: NDArray[np.float32], options: SamplingOptions, rng: np.random.Generator) -> int:
    """A token id from logits `[V]`. Ties go to the lower id; a logit of -inf is a token that is never chosen.

    Raises InputError if a logit is NaN or +inf, or all are -inf.
    """
    if not np.isfinite(logits.max()):  # the largest is NaN if any is
        raise InputError(UNUSABLE)
    if options.temperature == 0:
        return int(np.argmax(logits))
    ids = _candidates(logits, options)
    scores = logits[ids].astype(np.float64)
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the best to -inf, and exp to 0
        weights = np.exp((scores - scores.max()) / options.temperature)
    cumulated = np.cumsum(weights)
    cumulated /= cumulated[-1]
    if options.top_p < 1:
        kept = int(np.searchsorted(cumulated, options.top_p)) + 1
        cumulated = cumulated[:kept] / cumulated[kept - 1]
    return int(ids[np.searchsorted(cumulated, rng.random(), side="right")])


def _candidates(logits: NDArray[np.float32], options: SamplingOptions) -> NDArray[np.intp]:
    """The ids that top-k leaves, most likely first if anything depends on that."""
    size = len(logits)
    k = min(options.top_k, size) if options.top_k else size
    if k == size and options.top_p == 1:
        return np.arange(size)
    smallest = np.partition(logits, size - k)[size - k]
    ids = np.flatnonzero(logits >= smallest)
    return ids[np.argsort(-logits[ids], kind="stable")][:k]
