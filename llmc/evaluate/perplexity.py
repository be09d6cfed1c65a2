"""Perplexity: how well a model predicts a text that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmc.errors import InputError

if TYPE_CHECKING:
    from llmc.runtime.model import CompiledModel
    from llmc.runtime.tokenizer import Tokenizer

Progress = Callable[[int, int], object]
"""Told (windows done, windows in all)."""

LOGITS_AT_ONCE = 1 << 26
"""Logits that the windows of one call may have together; one window may have more."""

ROWS_AT_ONCE = 128
"""Rows whose logarithms are taken at once, in float64."""


@dataclass(frozen=True)
class Perplexity:
    """Mean negative log-likelihood of the tokens that were predicted, in nats, and its exponential.

    bits_per_byte: bits for each UTF-8 byte of their text, which models with different tokenizers can be compared by; None
    without a tokenizer. tokens: how many were predicted.
    """

    nats_per_token: float
    perplexity: float
    bits_per_byte: float | None
    tokens: int


def perplexity(
    model: CompiledModel, ids: Sequence[int], window: int, progress: Progress = lambda done, total: None
) -> Perplexity:
    """Over windows of `window` ids without overlap, the last one perhaps shorter; each id but the first of its window counts.

    Raises InputError for a model that continues no texts, if the window does not fit the model's context, or if there are fewer
    than two ids.
    """
    model.check_causal()
    windows = split_windows(ids, window, model.info.max_context)
    tally = Tally(model.tokenizer)
    for done, (tokens, logits) in enumerate(logits_of(model, windows), 1):
        tally.add(tokens, logits)
        progress(done, len(windows))
    return tally.result()


def split_windows(ids: Sequence[int], window: int, max_context: int) -> list[list[int]]:
    """The ids in windows of at least two; a single id at the end is left out. Raises InputError as `perplexity` does."""
    if not 2 <= window <= max_context:
        raise InputError(f"window must be from 2 to {max_context}, the positions of the model's context, not {window}")
    windows = [list(ids[start : start + window]) for start in range(0, len(ids), window)]
    windows = [tokens for tokens in windows if len(tokens) > 1]
    if not windows:
        raise InputError(f"nothing can be predicted in a text of {len(ids)} tokens; give at least two")
    return windows


def logits_of(model: CompiledModel, windows: list[list[int]]) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """Each window with its logits `[len, V]`, a few windows at a call."""
    count = max(1, LOGITS_AT_ONCE // (len(windows[0]) * model.info.vocab_size))
    for start in range(0, len(windows), count):
        batch = windows[start : start + count]
        yield from zip(batch, model(batch), strict=True)


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logarithms of the probabilities over the last axis."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


class Tally:
    """Adds up over windows what a perplexity is made of."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._nats, self._tokens, self._bytes = 0.0, 0, 0

    def add(self, tokens: Sequence[int], logits: NDArray[np.floating]) -> None:
        """A window of L ids and the logits `[L, V]` after each of them."""
        targets = np.asarray(tokens[1:])
        for start in range(0, len(targets), ROWS_AT_ONCE):
            wanted = targets[start : start + ROWS_AT_ONCE]
            chosen = log_softmax(logits[start : start + len(wanted)])[np.arange(len(wanted)), wanted]
            self._nats -= float(chosen.sum())
        self._tokens += len(targets)
        if self._tokenizer is not None:
            # The first id was given, so its bytes do not count. A character cut by a window's edge is off by a byte or two.
            whole, given = (self._tokenizer.decode(part).encode() for part in (tokens, tokens[:1]))
            self._bytes += len(whole) - len(given)

    def result(self) -> Perplexity:
        """Of all windows so far, at least one."""
        nats = self._nats / self._tokens
        bits = self._nats / math.log(2) / self._bytes if self._bytes else None
        return Perplexity(nats, float(np.exp(nats)), bits, self._tokens)
