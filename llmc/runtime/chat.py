"""A conversation with a model: what was said stays in the cache, so that a turn reads only what is new."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmc.errors import InputError
from llmc.runtime.chat_template import PLAIN_STOP, ChatTemplate, Message, plain
from llmc.runtime.drafts import Drafting
from llmc.runtime.generate import check_prompts, run
from llmc.runtime.generation import Event, FinishReason, GenerationOptions
from llmc.runtime.live import Live, budget_of, random_of
from llmc.runtime.sequences import Sequences, blocks_for

if TYPE_CHECKING:
    from llmc.runtime.contract import Context
    from llmc.runtime.model import CompiledModel


FIRST_CACHE = 1024
"""Positions that the cache has at first, where the model's context has as many."""


@dataclass
class Turn:
    """One reply while it comes. reused_tokens: of the prompt's, how many were in the cache already."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    new_tokens: int = 0
    text: str = ""
    finish_reason: FinishReason | None = None
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Of decode; the first token comes from prefill. 0 if there was nothing to decode."""
        return (self.new_tokens - 1) / self.decode_seconds if self.decode_seconds else 0.0


class Chat:
    """A conversation. `messages` is what was said so far; close it, or use it in a `with`, to give its cache back.

    The conversation is rendered and encoded anew each turn; of its ids, those that the cache holds already are not read again.
    The cache grows by doubling, and is then read anew. Raises InputError if the model has no tokenizer or gives no logits.
    """

    def __init__(self, model: CompiledModel, system: str | None = None) -> None:
        if model.tokenizer is None:
            raise InputError(f"{model.info.name}: this model has no tokenizer (tokenizer.json), so one cannot chat with it")
        if "logits" not in model.executable.outputs:
            given = ", ".join(model.executable.outputs)
            raise InputError(f"{model.info.name}: chatting needs logits; this model gives {given}")
        source = model.tokenizer.chat_template
        self.template = None if source is None else ChatTemplate(source, model.tokenizer.special_tokens)
        self._generator, self._tokenizer, self._info = model.generator, model.tokenizer, model.info
        self._first: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._lease = ExitStack()
        self._context: Context | None = None
        self._sequences, self._sequence = Sequences(0), 0
        self._ids: list[int] = []  # what the cache holds
        self._drafting = Drafting()
        self.reset()

    def reset(self) -> None:
        """Forget what was said; a system message stays."""
        self.messages = list(self._first)

    def close(self) -> None:
        """Give the cache back."""
        self._forget()
        self._lease.close()

    def _forget(self) -> None:
        self._context, self._sequences, self._ids = None, Sequences(0), []

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def say(self, text: str, options: GenerationOptions, turn: Turn) -> Iterator[str]:
        """The pieces of the reply to a text as they come; `turn` is told how it goes.

        Closing the iterator ends the reply, and what came of it counts as said. Raises InputError, at once and forgetting the
        text, if the conversation does not fit the context any more or the template refuses it.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = self._encode(messages)
        ends = frozenset(options.eos_ids) | set(self._info.eos_ids) | set(self._tokenizer.eos_ids)
        stop = tuple(options.stop) if self.template else (*options.stop, *PLAIN_STOP)
        options = replace(options, eos_ids=ends, stop=stop)
        self._generator.check(options)
        budget = budget_of(options, len(ids), self._info.max_context)
        context = self._reserve(len(ids) + budget - 1)
        turn.prompt_tokens, turn.reused_tokens = len(ids), self._keep(ids)
        live = Live(0, ids, budget, options, random_of(options.sampling.seed, ids, 0), self._tokenizer)
        live.sequence, live.unread = self._sequence, ids[turn.reused_tokens :]
        self.messages = messages
        drafting = self._drafting if options.prompt_lookup_num_tokens else None
        return self._reply(run(context, self._sequences, [live], drafting), ids, turn)

    def _reply(self, events: Iterator[Event], ids: list[int], turn: Turn) -> Iterator[str]:
        unread = ids[turn.reused_tokens :]
        try:
            for event in events:
                self._ids += unread
                unread = [event.token]  # chosen, and read by the next step if there is one
                turn.new_tokens += 1
                turn.finish_reason = event.finish_reason
                turn.prefill_seconds, turn.decode_seconds = event.prefill_seconds, event.decode_seconds
                turn.drafted_tokens, turn.accepted_tokens = event.drafted_tokens, event.accepted_tokens
                turn.text += event.text or ""
                if event.text:
                    yield event.text
        except GeneratorExit:
            raise
        except BaseException as error:  # what the cache holds is not known then; whoever lends it decides what becomes of it
            self._forget()
            self._lease.__exit__(type(error), error, error.__traceback__)
            raise
        finally:
            self.messages.append({"role": "assistant", "content": turn.text})

    def _reserve(self, positions: int) -> Context:
        """The context, with a cache for so many positions."""
        blocks, most = blocks_for(positions), blocks_for(self._info.max_context)
        if self._context is None or self._sequences.cache_blocks < blocks:
            size = min(max(blocks, 2 * self._sequences.cache_blocks, blocks_for(FIRST_CACHE)), most)
            self.close()
            self._context = self._lease.enter_context(self._generator.lease(size))
            self._sequences = Sequences(size)
            self._sequence = self._sequences.create()
        return self._context

    def _keep(self, ids: list[int]) -> int:
        """Keep what the cache holds of these ids, but the last one, which has to be read to be answered; how many."""
        pairs = zip(self._ids, ids[:-1], strict=False)
        common = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(self._ids), len(ids) - 1))
        self._sequences.truncate(self._sequence, common)
        del self._ids[common:]
        return common

    def _encode(self, messages: list[Message]) -> list[int]:
        text = self.template.render(messages) if self.template else plain(messages)
        ids = self._tokenizer.encode(text, rendered=self.template is not None)
        limit = self._info.max_context
        if len(ids) > limit:
            raise InputError(f"the conversation has {len(ids)} tokens now; the model's context has {limit}")
        return check_prompts([ids], self._info.vocab_size, limit)[0]
