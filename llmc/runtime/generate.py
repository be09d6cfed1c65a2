"""Generation: ragged prefill in bounded steps, then decode of all prompts that are not finished, together.

With prompt lookup a decode step reads guessed tokens too, and may give a prompt several tokens (`llmc.runtime.drafts`).
"""

from __future__ import annotations

import itertools
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Generator as Yields
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llmc.errors import InputError
from llmc.runtime.contract import Context
from llmc.runtime.drafts import Drafting
from llmc.runtime.forward import step_largest, step_rows
from llmc.runtime.prompt_lookup import Guess, NgramIndex
from llmc.runtime.sampling import SamplingOptions, greedy, is_integer, sample
from llmc.runtime.sequences import Sequences, blocks_for, split_steps
from llmc.runtime.stopping import StopFilter
from llmc.runtime.tokenizer import StreamDecoder, Tokenizer

FinishReason = Literal["eos", "stop", "length"]

Rows = NDArray[np.float32] | NDArray[np.int64]
"""What the tokens after a text, and after each guess that was read, are chosen from: logits `[n, V]`, or where the largest of
them are, `[n]`."""


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


def check_prompts(
    prompts: Sequence[Sequence[int]], vocab_size: int, max_context: int, padding: int | None = None
) -> list[list[int]]:
    """The prompts as lists of int.

    Raises InputError if one is empty, too long, has an id outside the vocabulary, or the one that stands for no token.
    """
    checked = []
    for index, prompt in enumerate(prompts):
        try:
            ids = [operator.index(token) for token in prompt]
        except TypeError as error:
            raise InputError(f"prompt {index} should be a list of token ids: {error}") from error
        if not ids:
            raise InputError(f"prompt {index} is empty")
        if len(ids) > max_context:
            raise InputError(f"prompt {index} has {len(ids)} tokens; the model's context has {max_context}")
        if min(ids) < 0 or max(ids) >= vocab_size:
            wrong = next(token for token in ids if not 0 <= token < vocab_size)
            raise InputError(f"prompt {index} has token id {wrong}; ids of this model are 0 to {vocab_size - 1}")
        if padding in ids:
            raise InputError(f"prompt {index} has the id {padding}, which pads; batches need no padding, leave it out")
        checked.append(ids)
    return checked


@dataclass(frozen=True)
class Generator:
    """Generates with one model.

    lease(blocks) lends a context whose cache has at least so many blocks, for the time of a `with`. row_exact: of the
    executable. backend: its name, for errors.
    """

    lease: Callable[[int], AbstractContextManager[Context]]
    vocab_size: int
    max_context: int
    tokenizer: Tokenizer | None = None
    row_exact: bool = False
    backend: str = ""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        on_token: Callable[[int, int], object] = lambda index, token: None,
        on_text: Callable[[int, str], object] = lambda index, piece: None,
    ) -> list[GenerationResult]:
        """A result for each prompt. The callbacks are told (index of the prompt, token or piece of text) as they come."""
        tokens: list[list[int]] = [[] for _ in prompts]
        pieces: list[list[str]] = [[] for _ in prompts]
        ends: dict[int, tuple[FinishReason, float, float, int, int]] = {}
        with closing(self.events(prompts, options)) as events:  # gives the context back even if a callback raises
            for event in events:
                tokens[event.index].append(event.token)
                on_token(event.index, event.token)
                if event.text:
                    pieces[event.index].append(event.text)
                    on_text(event.index, event.text)
                if event.finish_reason:
                    seconds = event.prefill_seconds, event.decode_seconds
                    ends[event.index] = event.finish_reason, *seconds, event.drafted_tokens, event.accepted_tokens
        return [
            GenerationResult(list(prompt), tokens[i], None if self.tokenizer is None else "".join(pieces[i]), *ends[i])
            for i, prompt in enumerate(prompts)
        ]

    def stream(self, prompt: Sequence[int], options: GenerationOptions) -> Iterator[str] | Iterator[int]:
        """Pieces of text for one prompt as they come; token ids if there is no tokenizer."""
        events = self.events([prompt], options)
        if self.tokenizer is None:
            return (event.token for event in events)
        return (event.text for event in events if event.text)

    def events(self, prompts: Sequence[Sequence[int]], options: GenerationOptions) -> Yields[Event, None, None]:
        """Each token as it is chosen. Arguments are checked at once; the context is held until the end or `close()`."""
        checked = check_prompts(prompts, self.vocab_size, self.max_context)
        self.check(options)
        return self._events(checked, options)

    def check(self, options: GenerationOptions) -> None:
        """Raise InputError for options that this model cannot serve."""
        if options.stop and self.tokenizer is None:
            raise InputError("stop strings need a tokenizer; this model has none")
        if options.prompt_lookup_num_tokens and not self.row_exact:
            raise InputError(
                f"prompt_lookup_num_tokens: backend '{self.backend}' is not row_exact: logits depend on what else is read, "
                "so guesses would change the text; leave the option out, or compile for a backend that is, such as 'cpu'"
            )

    def _events(self, prompts: list[list[int]], options: GenerationOptions) -> Yields[Event, None, None]:
        if not prompts:
            return
        times_seen: Counter[tuple[int, ...]] = Counter()
        live = []
        for index, prompt in enumerate(prompts):
            budget = budget_of(options, len(prompt), self.max_context)
            rng = random_of(options.sampling.seed, prompt, times_seen[tuple(prompt)])
            times_seen[tuple(prompt)] += 1
            live.append(Live(index, prompt, budget, options, rng, self.tokenizer))
        blocks = sum(blocks_for(len(one.unread) + one.budget - 1) for one in live)
        with self.lease(blocks) as context:
            sequences = Sequences(blocks)
            for one in live:
                one.sequence = sequences.create()
            yield from run(context, sequences, live, Drafting() if options.prompt_lookup_num_tokens else None)


def run(context: Context, sequences: Sequences, live: list[Live], drafting: Drafting | None = None) -> Iterator[Event]:
    """Read what is unread of each and continue it until all are finished; each has a sequence of its own already.

    drafting: what decides how much of their guesses is read, for those that make any.
    """
    seconds = {"prefill": 0.0, "decode": 0.0}
    phase = "prefill"
    while live:
        if drafting and phase == "decode":
            start = perf_counter()
            _draft(live, drafting)
            seconds[phase] += perf_counter() - start
        for step in split_steps([one.unread + one.draft for one in live]):
            start = perf_counter()
            rows = _step(context, sequences, live, step)
            if drafting and phase == "decode":
                drafting.seconds.add(sum(stop - begin for _, begin, stop in step), perf_counter() - start)
            chosen = [(one, _take(sequences, one, values, drafting)) for one, values in rows]
            seconds[phase] += perf_counter() - start
            for one, tokens in chosen:
                for token, text, finish_reason in tokens:
                    times = seconds["prefill"], seconds["decode"]
                    yield Event(one.index, token, text, finish_reason, *times, one.drafted_tokens, one.accepted_tokens)
            for error in (one.failure for one, _ in chosen if one.failure):
                raise error
        live = [one for one in live if one.finish_reason is None]
        phase = "decode"


def _draft(live: list[Live], drafting: Drafting) -> None:
    """Give each what is to be read of its guess; in all no more than one step takes, so that none is cut."""
    guesses = [one.look_up() for one in live]
    for one, guess, length in zip(live, guesses, drafting.lengths(guesses), strict=True):
        one.draft = guess.tokens[:length] if guess else []


def _step(
    context: Context, sequences: Sequences, live: list[Live], step: list[tuple[int, int, int]]
) -> list[tuple[Live, Rows]]:
    """Read tokens; what follows each prompt that is now read to its end is chosen from."""
    ends = [stop == len(live[i].unread) + len(live[i].draft) for i, _, stop in step]
    ended = [live[i] for (i, _, _), end in zip(step, ends, strict=True) if end]
    batch = sequences.batch(
        [(live[i].sequence, (live[i].unread + live[i].draft)[start:stop]) for i, start, stop in step],
        [("all" if live[i].draft else "last") if end else "none" for (i, _, _), end in zip(step, ends, strict=True)],
    )
    greedy = all(one.greedy for one in ended)
    values = step_largest(context, batch, "logits") if greedy else step_rows(context, batch, "logits")
    stops = list(itertools.accumulate(1 + len(one.draft) for one in ended))
    return [(one, values[start:stop]) for one, start, stop in zip(ended, [0, *stops], stops, strict=False)]


def _take(
    sequences: Sequences, one: Live, rows: Rows, drafting: Drafting | None
) -> list[tuple[int, str | None, FinishReason | None]]:
    """What a prompt makes of its rows; guesses that were read and are not of its text leave the cache."""
    read = sequences.length(one.sequence)
    chosen = one.take(rows)
    if one.draft:
        sequences.truncate(one.sequence, read - len(rows) + len(chosen))
    if drafting and one.guess:
        drafting.learn(one.guess, [token for token, _, _ in chosen])
    return chosen


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
