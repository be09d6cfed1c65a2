"""What is asked of generation, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from llmc.errors import InputError
from llmc.runtime.sampling import SamplingOptions, is_integer

FinishReason = Literal["eos", "stop", "length"]


@dataclass(frozen=True)
class GenerationOptions:
    """When to stop, and how to choose. Raises InputError naming the option that cannot be used.

    max_new_tokens: at most so many; fewer when the context is full. eos_ids: a token that ends a text; it is not part of it.
    stop: strings that end a text; it is cut before them. prompt_lookup_num_tokens: guess at most so many tokens at a time from
    what prompt and text repeat, as the `transformers` library calls it; 0 to guess none. The text is the same, and guesses are
    read only while they make it come sooner. Needs a backend that is `row_exact`.
    """

    max_new_tokens: int = 64
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    eos_ids: frozenset[int] = frozenset()
    stop: Sequence[str] = ()
    prompt_lookup_num_tokens: int = 0

    def __post_init__(self) -> None:
        if not is_integer(self.max_new_tokens) or self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be a whole number from 1 upwards, not {self.max_new_tokens!r}")
        if not isinstance(self.stop, list | tuple) or not all(isinstance(stop, str) and stop for stop in self.stop):
            raise InputError(f"stop must be a list of strings that are not empty, not {self.stop!r}")
        if not is_integer(self.prompt_lookup_num_tokens) or self.prompt_lookup_num_tokens < 0:
            found = repr(self.prompt_lookup_num_tokens)
            raise InputError(f"prompt_lookup_num_tokens must be a whole number from 0 (off) upwards, not {found}")


@dataclass(frozen=True)
class GenerationResult:
    """What became of one prompt.

    tokens: all that were chosen, an eos and the tokens of a stop string included. text: without them; None if there is no
    tokenizer. prefill_seconds, decode_seconds: spent in steps that read prompts, and in steps after, until it was finished,
    choosing and guessing tokens included; all prompts of a call share the steps. drafted_tokens: guesses that were read
    with a step; accepted_tokens: those that were right, each of which saved a step.
    """

    prompt: list[int]
    tokens: list[int]
    text: str | None
    finish_reason: FinishReason
    prefill_seconds: float
    decode_seconds: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Tokens read."""
        return len(self.prompt)

    @property
    def new_tokens(self) -> int:
        """Tokens chosen."""
        return len(self.tokens)

    @property
    def tokens_per_second(self) -> float:
        """Of decode; the first token comes from prefill. 0 if there was nothing to decode."""
        return (self.new_tokens - 1) / self.decode_seconds if self.decode_seconds else 0.0

    def __str__(self) -> str:
        return str(self.tokens) if self.text is None else self.text


@dataclass(frozen=True)
class Event:
    """One token of the prompt `index`: the text that can be shown now (None without a tokenizer), and how it ended, if so.

    drafted_tokens, accepted_tokens: of this prompt up to the step that gave the token.
    """

    index: int
    token: int
    text: str | None
    finish_reason: FinishReason | None
    prefill_seconds: float
    decode_seconds: float
    drafted_tokens: int
    accepted_tokens: int
