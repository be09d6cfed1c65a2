"""How far a compiled model is from the module it was made of, on the same text."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from llmc.capture.export import Wrapper
from llmc.errors import InputError
from llmc.evaluate.perplexity import ROWS_AT_ONCE, Perplexity, Progress, Tally, log_softmax, logits_of, split_windows

if TYPE_CHECKING:
    from llmc.runtime.model import CompiledModel


@dataclass(frozen=True)
class Divergence:
    """Means over all positions of the windows.

    kl_nats: KL(original || compiled) of the next token's distribution. same_top1: share of positions where both find the same
    token most likely. logits_error: norm of the difference of all logits over the norm of the original's. compiled, original:
    the perplexity of each. positions: how many were compared.
    """

    kl_nats: float
    same_top1: float
    logits_error: float
    compiled: Perplexity
    original: Perplexity
    positions: int


def divergence(
    model: CompiledModel,
    original: nn.Module,
    ids: Sequence[int],
    window: int,
    dtype: Literal["float64", "float32"] = "float64",
    progress: Progress = lambda done, total: None,
) -> Divergence:
    """Run both on the windows of `perplexity`; `original` runs as a copy in `dtype`.

    Raises InputError as `perplexity` does, or if the two do not give logits of the same shape.
    """
    reference = Wrapper(copy.deepcopy(original).eval().to(getattr(torch, dtype)), lambda ids: {})
    windows = split_windows(ids, window, model.info.max_context)
    tallies = Tally(model.tokenizer), Tally(model.tokenizer)
    sums = _Sums()
    for done, (tokens, found) in enumerate(logits_of(model, windows), 1):
        expected = _logits(reference, tokens)
        if found.shape != expected.shape:
            raise InputError(f"the compiled model gives logits {list(found.shape)}, the original {list(expected.shape)}")
        for tally, logits in zip(tallies, (found, expected), strict=True):
            tally.add(tokens, logits)
        sums.add(found, expected)
        progress(done, len(windows))
    return Divergence(
        kl_nats=sums.kl / sums.positions,
        same_top1=sums.same / sums.positions,
        logits_error=math.sqrt(sums.difference / sums.norm) if sums.norm else math.nan,
        compiled=tallies[0].result(),
        original=tallies[1].result(),
        positions=sums.positions,
    )


def _logits(reference: nn.Module, tokens: Sequence[int]) -> NDArray[np.floating]:
    """`[len, V]` of the original for one window."""
    try:
        with torch.no_grad():
            return reference(torch.tensor([tokens]), {})["logits"][0].numpy()
    except IndexError as error:  # torch's for an id that its embedding does not have
        raise InputError(f"the original cannot read these ids; does it have another vocabulary? ({error})") from error


@dataclass
class _Sums:
    """Added up over windows, in float64."""

    kl: float = 0.0
    same: int = 0
    difference: float = 0.0
    norm: float = 0.0
    positions: int = 0

    def add(self, found: NDArray[np.floating], expected: NDArray[np.floating]) -> None:
        for start in range(0, len(found), ROWS_AT_ONCE):
            ours, theirs = (logits[start : start + ROWS_AT_ONCE].astype(np.float64) for logits in (found, expected))
            log_p, log_q = log_softmax(theirs), log_softmax(ours)
            with np.errstate(invalid="ignore"):  # a logit of -inf in both: the term of a probability of 0 is 0
                self.kl += float((np.exp(log_p) * np.where(np.isneginf(log_p), 0.0, log_p - log_q)).sum())
            self.same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
            self.difference += float(np.square(ours - theirs).sum())
            self.norm += float(np.square(theirs).sum())
            self.positions += len(ours)
