"""llmc chat: talk with a model."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from llmc.cli.common import (
    JsonOption,
    PromptLookupOption,
    SeedOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    decode,
    drafts,
)
from llmc.cli.model_options import NamedModel, opens_model
from llmc.cli.progress import tell
from llmc.errors import InputError

if TYPE_CHECKING:
    from llmc.runtime.chat import Chat, Turn
    from llmc.runtime.generation import GenerationOptions

HELP = "/reset forgets what was said, /quit or Ctrl-D leaves, Ctrl-C ends a reply, /help is this"


@opens_model(threads=True)
def chat(
    model: NamedModel,
    system: Annotated[str | None, typer.Option(help="A message that stands before the conversation.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="At most so many a reply.")] = 512,
    temperature: TemperatureOption = 0.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    seed: SeedOption = 0,
    prompt_lookup: PromptLookupOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Talk with a model, a line a turn, at a terminal or from a pipe; --json prints an object a turn."""
    from llmc.runtime.chat import Chat, Turn
    from llmc.runtime.generation import GenerationOptions
    from llmc.runtime.sampling import SamplingOptions

    sampling = SamplingOptions(temperature, top_k, top_p, seed)
    options = GenerationOptions(max_new_tokens, sampling, prompt_lookup_num_tokens=prompt_lookup)
    opened = model.open()
    opened.generator.check(options)
    with Chat(opened, system) as talk:
        if talk.template is None:
            tell(f"{model} has no chat template; turns are put to it as plain text, 'User: ... Assistant: ...'")
        interactive = sys.stdin.isatty()
        if interactive:
            tell(HELP)
        for text in _lines(interactive):
            if text.startswith("/"):
                if _command(text, talk):
                    return
                continue
            turn = Turn()
            try:
                _answer(talk, text, options, turn, show=not as_json)
            except InputError as error:
                if not interactive:
                    raise
                tell(f"{error}; /reset starts anew")
                continue
            if as_json:
                print(_as_json(text, turn), flush=True)
            elif interactive:
                tell(_summary(turn))


def _lines(interactive: bool) -> Iterator[str]:
    """What the user says, without empty lines. Raises InputError if it is not UTF-8."""
    if interactive:
        import readline  # noqa: F401  # lets input() edit lines and remember them

    while True:
        try:
            line = input("> ") if interactive else decode(sys.stdin.buffer.readline())
        except KeyboardInterrupt:
            tell("\n/quit or Ctrl-D leaves")
            continue
        except EOFError:
            tell("")
            return
        if not line and not interactive:
            return
        if line.strip():
            yield line.strip()


def _command(text: str, talk: Chat) -> bool:
    """Do what a line with a slash says; whether it is to leave."""
    if text == "/reset":
        talk.reset()
        tell("forgotten")
    elif text == "/help":
        tell(HELP)
    elif text != "/quit":
        tell(f"there is no {text.split()[0]}; {HELP}")
    return text == "/quit"


def _answer(talk: Chat, text: str, options: GenerationOptions, turn: Turn, show: bool) -> None:
    """Say something and, if wanted, print the reply as it comes."""
    pieces = talk.say(text, options, turn)
    with _interrupted() as stopped:
        for piece in pieces:
            if show:
                print(piece, end="", flush=True)
            if stopped:
                pieces.close()  # type: ignore[attr-defined]
                break
    if show:
        print(flush=True)


@contextmanager
def _interrupted() -> Iterator[list[int]]:
    """A list that Ctrl-C puts something into, in place of what it does otherwise: a step is never cut in the middle."""
    stopped: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def _as_json(text: str, turn: Turn) -> str:
    from dataclasses import asdict

    facts = asdict(turn)
    return json.dumps({"user": text, "reply": facts.pop("text"), **facts, "tokens_per_second": turn.tokens_per_second})


def _summary(turn: Turn) -> str:
    new = turn.prompt_tokens - turn.reused_tokens
    ended = turn.finish_reason or "Ctrl-C"
    return (
        f"[{new} of {turn.prompt_tokens} tokens read in {turn.prefill_seconds:.2f} s, {turn.new_tokens} new ones, "
        f"{turn.tokens_per_second:.1f} a second{drafts(turn)}, ended by {ended}]"
    )
