"""Decode speed beside PyTorch: llmc and eager bf16 take turns on the same model and prompt, in one sitting.

    python benchmarks/decode.py [--model FOLDER | --shape NAME] [--recipe NAME ...] [--pairs 7] [--threads 2] [--out FOLDER]

A sample is the rate of NEW_TOKENS greedy tokens after the first, which comes with the prompt. Both sides run once before
anything is timed. A shape is that of a published model filled with random numbers, as speed does not depend on them. The ratio
of a round is that of its two samples; the table gives medians and the spread of the rounds.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import track
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

import llmc
from llmc.evaluate.latency import original_decode_speed
from llmc.runtime.tokenizer import Tokenizer

BUNDLED = Path(__file__).resolve().parents[1] / "examples" / "tiny_lm" / "model"
NEW_TOKENS = 128
PROMPT_TOKENS = 64
PEER = "torch eager bf16"

SHAPES = {
    "smollm2-135m": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    ),
    "llama-3.2-1b": LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    ),
}

Sample = Callable[[], float]


def filled(shape: str, folder: Path) -> Path:
    """A checkpoint in bfloat16 of a shape; no id ends a text."""
    torch.manual_seed(0)
    config = SHAPES[shape]
    config.eos_token_id = None
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(config).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    return folder


def peer(folder: Path, ids: list[int]) -> Sample:
    """PyTorch as the library runs it: bf16, its own KV cache, one token at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    return lambda: original_decode_speed(model, ids, NEW_TOKENS)


def ours(folder: Path, recipe: str, ids: list[int], threads: int) -> Sample:
    """A compiled model, through the call that users make."""
    began = time.perf_counter()
    compiled = llmc.compile(folder, recipe=recipe, threads=threads)
    print(f"{recipe}: from capture to a loaded library in {time.perf_counter() - began:.1f} s")

    def sample() -> float:
        result = compiled.generate(ids, max_new_tokens=NEW_TOKENS + 1)
        if result.new_tokens <= NEW_TOKENS:
            raise SystemExit(f"{recipe}: the text ended after {result.new_tokens} tokens; take another prompt")
        return result.tokens_per_second

    return sample


def processor() -> str:
    """The model name of the processor, as Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def main(
    model: Annotated[Path, typer.Option(help="A folder of the transformers library.")] = BUNDLED,
    shape: Annotated[str | None, typer.Option(help=f"Random numbers in a shape instead: {', '.join(SHAPES)}.")] = None,
    recipe: Annotated[list[str], typer.Option(help="What llmc compiles with. Repeatable.")] = ["fuse", "int8"],  # noqa: B006
    pairs: Annotated[int, typer.Option(min=1, help="Rounds; each side runs once in each.")] = 7,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    out: Annotated[Path | None, typer.Option(help="Write samples and table into this folder.")] = None,
) -> None:
    """Print a table of decode speeds."""
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    ids = Tokenizer(BUNDLED).encode((BUNDLED / "heldout.txt").read_text())[:PROMPT_TOKENS]
    named = shape or f"{model.parent.name}/{model.name}"
    with tempfile.TemporaryDirectory() as scratch:
        model = filled(shape, Path(scratch)) if shape else model
        sides = {PEER: peer(model, ids), **{f"llmc {name}": ours(model, name, ids, threads) for name in recipe}}
    for sample in sides.values():
        sample()
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in track(range(pairs), description="rounds"):
        for name, sample in sides.items():
            samples[name].append(sample())
    lines = [
        f"{named}: {NEW_TOKENS} tokens after {PROMPT_TOKENS}, {threads} threads, {pairs} rounds, "
        f"{processor()}, torch {torch.__version__}",
        "",
        "| | tokens/s (median) | ratio to torch (median) | ratio (least to greatest) |",
        "|---|---:|---:|---:|",
    ]
    for name, values in samples.items():
        ratios = [value / base for value, base in zip(values, samples[PEER], strict=True)]
        spread = "" if name == PEER else f"{min(ratios):.1f} to {max(ratios):.1f}"
        lines.append(f"| {name} | {statistics.median(values):.0f} | {statistics.median(ratios):.1f} | {spread} |")
    print("\n".join(lines))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        name = f"decode_{shape}" if shape else "decode"
        (out / f"{name}.md").write_text("\n".join(lines) + "\n")
        (out / f"{name}.json").write_text(json.dumps(samples, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
