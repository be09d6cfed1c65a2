"""A prompt that is being continued: what it reads next, and what it makes of the rows that come of that."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmc.errors import InputError
from llmc.runtime.generation import FinishReason, GenerationOptions
from llmc.runtime.prompt_lookup import Guess, NgramIndex
from llmc.runtime.sampling import greedy, sample
from llmc.runtime.stopping import StopFilter
from llmc.runtime.tokenizer import StreamDecoder, Tokenizer

Rows = NDArray[np.float32] | NDArray[np.int64]
"""What the tokens after a text, and after each guess that was read, are chosen from: logits `[n, V]`, or where the largest of
them are, `[n]`."""


def budget_of(options: GenerationOptions, length: int, max_context: int) -> int:
    """Tokens that may follow a prompt. The last one is chosen but never read, so it needs no place in the context."""
    return min(options.max_new_tokens, max_context - length + 1)


def random_of(seed: int, prompt: list[int], repeat: int) -> np.random.Generator:
    """Depends on nothing else in the batch, and differs for a prompt that is asked for several times."""
    return np.random.default_rng(np.random.SeedSequence([seed, *prompt], spawn_key=(repeat,)))


class Live:
    """A prompt that is being continued.

    unread: what the next steps read, at first the prompt, or what a cache lacks of it. guess: what may follow it; draft: as
    much of the guess as the step reads, which is only where `unread` is one token. failure: why nothing can be chosen after
    the last token, where that is found out in the step that gave it.
    """

    sequence: int
    failure: InputError | None = None
    finish_reason: FinishReason | None = None
    guess: Guess | None = None
    drafted_tokens = accepted_tokens = 0

    def __init__(
        self,
        index: int,
        prompt: list[int],
        budget: int,
        options: GenerationOptions,
        rng: np.random.Generator,
        tokenizer: Tokenizer | None,
    ) -> None:
        self.index, self.unread, self.budget = index, prompt, budget
        self.draft: list[int] = []
        self._ngrams = NgramIndex(prompt) if options.prompt_lookup_num_tokens else None
        self._options, self._rng = options, rng
        self._decoder = None if tokenizer is None else StreamDecoder(tokenizer, prompt)
        self._filter = StopFilter(options.stop)

    def look_up(self) -> Guess | None:
        """Guess at what follows, no more than may be read before the last token is chosen."""
        most = min(self._options.prompt_lookup_num_tokens, self.budget - 1)
        self.guess = self._ngrams.guess(most) if self._ngrams and most else None
        return self.guess

    @property
    def greedy(self) -> bool:
        """Whether the largest logit is all that is wanted of a row."""
        return self._options.sampling.temperature == 0

    def take(self, rows: Rows) -> list[tuple[int, str | None, FinishReason | None]]:
        """Tokens, each with its text and how it ends the whole, if so, from 1 + draft rows.

        Row i comes after i drafted tokens, and is looked at if these were chosen. One draw of the random numbers a token, as
        without a draft. Raises InputError if nothing can be chosen from the first row; of a later one that is the `failure`.
        """
        chosen: list[tuple[int, str | None, FinishReason | None]] = []
        for row, guessed in zip(rows, [*self.draft, None], strict=True):
            try:
                token, text = self.choose(row)
            except InputError as error:
                if not chosen:
                    raise
                self.failure = error
                break
            chosen.append((token, text, self.finish_reason))
            self.accepted_tokens += token == guessed
            if token != guessed or self.finish_reason:
                break
        self.drafted_tokens += len(self.draft)
        return chosen

    def choose(self, row: NDArray[np.float32] | np.int64) -> tuple[int, str | None]:
        """The next token, and the text that it lets be shown."""
        token = sample(row, self._options.sampling, self._rng) if isinstance(row, np.ndarray) else greedy(int(row))
        if self._ngrams:
            self._ngrams.push(token)
        self.unread = [token]
        self.budget -= 1
        if token in self._options.eos_ids:
            self.finish_reason = "eos"
        elif self.budget == 0:
            self.finish_reason = "length"
        return token, None if self._decoder is None else self._show(token, self._decoder)

    def _show(self, token: int, decoder: StreamDecoder) -> str:
        text, stopped = self._filter.push("" if self.finish_reason == "eos" else decoder.push(token))
        if self.finish_reason and not stopped:
            rest, stopped = self._filter.push(decoder.flush())
            text += rest + self._filter.flush()
        if stopped:
            self.finish_reason = "stop"
        return text
