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
from dataclasses import dataclass
from time import perf_counter

from llmc.errors import InputError
from llmc.runtime.contract import Context
from llmc.runtime.drafts import Drafting
from llmc.runtime.forward import step_largest, step_rows
from llmc.runtime.generation import Event, FinishReason, GenerationOptions, GenerationResult
from llmc.runtime.live import Live, Rows, budget_of, random_of
from llmc.runtime.sequences import Sequences, blocks_for, split_steps
from llmc.runtime.tokenizer import Tokenizer


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
            failure = next((one.failure for one, _ in chosen if one.failure), None)
            if failure:
                raise failure
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
