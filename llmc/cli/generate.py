"""llmc generate: continue a text."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from llmc.cli.common import (
    JsonOption,
    PromptLookupOption,
    SeedOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    drafts,
    print_json,
    read_stdin,
)
from llmc.cli.model_options import NamedModel, opens_model
from llmc.cli.progress import tell


@opens_model(threads=True)
def generate(
    model: NamedModel,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to continue; '-' reads it from stdin.")],
    max_new_tokens: Annotated[int, typer.Option(help="At most so many.")] = 64,
    temperature: TemperatureOption = 0.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    seed: SeedOption = 0,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends the generation. Repeatable.")] = None,
    prompt_lookup: PromptLookupOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Continue a text, as it comes, on stdout; timings go to stderr."""
    from llmc.errors import InputError
    from llmc.runtime.generation import GenerationOptions
    from llmc.runtime.sampling import SamplingOptions

    sampling = SamplingOptions(temperature, top_k, top_p, seed)
    wanted = GenerationOptions(max_new_tokens, sampling, stop=tuple(stop or ()), prompt_lookup_num_tokens=prompt_lookup)
    text = read_stdin() if prompt == "-" else prompt
    opened = model.open()
    if opened.tokenizer is None:
        raise InputError(f"{model}: this model has no tokenizer (tokenizer.json), so it cannot continue a text")
    options = replace(wanted, eos_ids=frozenset(opened.info.eos_ids))
    ids = opened.tokenizer.encode(text)
    show = (lambda _, piece: None) if as_json else (lambda _, piece: print(piece, end="", flush=True))
    [result] = opened.generator.generate([ids], options, on_text=show)
    if as_json:
        facts = ("text", "tokens", "prompt_tokens", "new_tokens", "finish_reason", "prefill_seconds", "decode_seconds")
        more = ("tokens_per_second", "drafted_tokens", "accepted_tokens")
        data = {name: getattr(result, name) for name in (*facts, *more)}
        print_json({"model": model.name, "prompt": text, **data})
        return
    print(flush=True)
    tell(
        f"{result.prompt_tokens} prompt tokens in {result.prefill_seconds:.2f} s, {result.new_tokens} new tokens, "
        f"{result.tokens_per_second:.1f} a second{drafts(result)}, ended by {result.finish_reason}"
    )
