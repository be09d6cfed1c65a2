"""How fast a compiled model reads a prompt and writes a text."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmc.errors import InputError
from llmc.runtime.generation import GenerationOptions

if TYPE_CHECKING:
    from llmc.runtime.model import CompiledModel


@dataclass(frozen=True)
class Measured:
    """Of several runs, in their order."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """The distance of the extremes as a share of the median."""
        return (max(self.values) - min(self.values)) / self.median


@dataclass(frozen=True)
class Speed:
    """prefill, decode: tokens a second. first_token: seconds from the prompt to the first token of the text.

    prompt_tokens, new_tokens: of each run. context: positions that a token of the decode attends to in the mean.
    """

    prefill: Measured
    decode: Measured
    first_token: Measured
    prompt_tokens: int
    new_tokens: int
    runs: int

    @property
    def context(self) -> int:
        return self.prompt_tokens + self.new_tokens // 2


def speed(
    model: CompiledModel,
    prompt_tokens: int,
    new_tokens: int,
    runs: int,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Speed:
    """Generate greedily after a prompt of random ids, `runs` times after one that does not count.

    Raises InputError if prompt and text do not fit the model's context, if nothing is left to decode, or for a model that
    gives no logits to generate from.
    """
    if "logits" not in model.executable.outputs:
        raise InputError(f"bench generates, which needs logits; this model gives {', '.join(model.executable.outputs)}")
    if new_tokens < 2 or prompt_tokens < 1 or runs < 1:
        raise InputError("bench needs at least one token of a prompt, two new tokens and one run")
    if prompt_tokens + new_tokens > model.info.max_context + 1:
        total, limit = prompt_tokens + new_tokens, model.info.max_context
        raise InputError(f"prompt and new tokens are {total} together; the model's context has {limit} positions")
    ids = np.random.default_rng(0).integers(0, model.info.vocab_size, prompt_tokens).tolist()
    options = GenerationOptions(new_tokens)  # without ids that end a text, so that every run is as long
    results = []
    for done in range(runs + 1):
        [result] = model.generator.generate([ids], options)
        results.append(result)
        progress(done, runs)
    timed = results[1:]
    return Speed(
        prefill=Measured(tuple(prompt_tokens / one.prefill_seconds for one in timed)),
        decode=Measured(tuple(one.tokens_per_second for one in timed)),
        first_token=Measured(tuple(one.prefill_seconds for one in timed)),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        runs=runs,
    )
