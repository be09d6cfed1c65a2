"""Decode with prompt lookup beside decode without it: the same texts, the two taking turns in one process.

    python -m benchmarks.prompt_lookup [--model FOLDER | --shape NAME] [--recipe int4] [--most 10] [--pairs 3] [--threads 2]

Each kind of text is continued by NEW_TOKENS tokens: held-out code, greedily and sampled at temperature 1, and a text that does
nothing but repeat itself. A model of random numbers repeats itself when greedy, and hardly ever when it is sampled. The ratio
of a round is that of its two samples; the table gives medians and the spread of the rounds.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.home import ROOT, default_home
from benchmarks.models import checkpoint
from benchmarks.shapes import SHAPES
from llmc.cli.common import open_model
from llmc.runtime.generation import GenerationResult
from llmc.runtime.model import CompiledModel
from llmc.runtime.tokenizer import Tokenizer

BUNDLED = ROOT / "examples" / "tiny_lm" / "model"
NEW_TOKENS = 192
PROMPT_TOKENS = 192


def texts() -> dict[str, tuple[list[int], float]]:
    """Kinds of text: (prompt, temperature). The bundled model's tokens, which every larger vocabulary has too."""
    tokenizer = Tokenizer(BUNDLED)
    ids = tokenizer.encode((BUNDLED / "heldout.txt").read_text())
    kinds = {
        f"code {number}, {how}": (ids[start : start + PROMPT_TOKENS], temperature)
        for number, start in enumerate((0, 20_000, 40_000), 1)
        for how, temperature in (("greedy", 0.0), ("sampled", 1.0))
    }
    return {**kinds, "repetition, greedy": (tokenizer.encode("total = total + 1\n" * 40)[:PROMPT_TOKENS], 0.0)}


def generated(model: CompiledModel, ids: list[int], temperature: float, most: int) -> GenerationResult:
    """One text, with at most so many tokens guessed at a time."""
    result = model.generate(ids, NEW_TOKENS, temperature, seed=1, prompt_lookup_num_tokens=most)
    assert isinstance(result, GenerationResult)
    return result


def row(model: CompiledModel, ids: list[int], temperature: float, most: int, pairs: int) -> str:
    """A line of the table."""
    speeds: dict[int, list[float]] = {0: [], most: []}
    for number in range(pairs + 1):  # the first round warms up
        found = {count: generated(model, ids, temperature, count) for count in speeds}
        if found[0].new_tokens == 1:
            return "ends with its first token | | | |"
        if found[0].tokens != found[most].tokens:
            raise SystemExit("the text differs with prompt lookup")
        for count, result in found.items() if number else ():
            speeds[count].append(result.tokens_per_second)
    ratios = [fast / plain for plain, fast in zip(speeds[0], speeds[most], strict=True)]
    last = found[most]
    a_step = (last.new_tokens - 1) / (last.new_tokens - 1 - last.accepted_tokens)
    cells = [
        f"{statistics.median(speeds[0]):.0f}",
        f"{statistics.median(speeds[most]):.0f}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{a_step:.2f}",
        f"{last.drafted_tokens}, {last.accepted_tokens}",
    ]
    return " | ".join(cells)


def main(
    model: Annotated[Path, typer.Option(help="A folder of the transformers library, or a compiled model's.")] = BUNDLED,
    shape: Annotated[str | None, typer.Option(help=f"Random numbers in a shape instead: {', '.join(SHAPES)}.")] = None,
    recipe: Annotated[str | None, typer.Option(help="What it is compiled with, if it is not.")] = None,
    most: Annotated[int, typer.Option(min=1, help="Most tokens that are guessed at a time.")] = 10,
    pairs: Annotated[int, typer.Option(min=1, help="Rounds; with and without run once in each.")] = 3,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Print a table of decode speeds."""
    folder = checkpoint(SHAPES[shape], default_home()) if shape else model
    opened = open_model(str(folder), recipe=recipe, threads=threads)
    print(f"{opened.info.name}, {opened.info.recipe}: {NEW_TOKENS} tokens, {threads} threads, {pairs} rounds\n")
    print("| text | without, tokens/s | with | ratio (least to greatest) | tokens a step | guesses read, right |")
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    for name, (ids, temperature) in texts().items():
        print(f"| {name} | {row(opened, ids, temperature, most, pairs)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
