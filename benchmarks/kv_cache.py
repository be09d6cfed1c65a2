"""Decode after a long context with the cache in float32, bfloat16 and int8, taking turns in one process.

    python -m benchmarks.kv_cache [--shape smollm2-135m] [--recipe int4] [--context 4096] [--pairs 7] [--threads 2]

A sample is the median of STEPS steps of one token. What a step has to read, weights once and the cache once, at the bandwidth
measured in the same sitting is the bound that the share is of; what fits the third cache may exceed it.
"""

from __future__ import annotations

import statistics
import time
from typing import Annotated, Any

import numpy as np
import typer

import llmc
from benchmarks.home import default_home
from benchmarks.models import checkpoint
from benchmarks.shapes import SHAPES
from llmc.backends.cpu.backend import CpuBackend
from llmc.evaluate.work import Step, step_work
from llmc.runtime.contract import BLOCK
from llmc.runtime.model import CompiledModel
from llmc.runtime.sequences import Sequences

CACHES: dict[str, list[Any]] = {
    "float32": [],
    "bfloat16": [{"name": "quantize-kv", "to": "bfloat16"}],
    "int8": [{"name": "quantize-kv", "to": "int8"}],
}
STEPS, CHUNK = 8, 512


class Decode:
    """A sequence of so many random tokens in a context of its own."""

    def __init__(self, model: CompiledModel, context: int, threads: int) -> None:
        blocks = (context + STEPS) // BLOCK + 1
        self.length, self.sequences = context, Sequences(blocks)
        self.context, self.sequence = model.executable.context(blocks, threads), self.sequences.create()
        self.bytes = step_work(model.program, model.executable.block_bytes, Step(1, past=context)).bytes
        ids = np.random.default_rng(0).integers(0, model.info.vocab_size, context).tolist()
        for start in range(0, context, CHUNK):
            self.step(ids[start : start + CHUNK])

    def step(self, ids: list[int]) -> float:
        """Seconds of a step."""
        batch = self.sequences.batch([(self.sequence, ids)], ["last"])
        began = time.perf_counter()
        self.context.step(batch)
        return time.perf_counter() - began

    def sample(self) -> float:
        """Tokens a second."""
        seconds = statistics.median(self.step([1]) for _ in range(STEPS))
        self.sequences.truncate(self.sequence, self.length)
        return 1 / seconds


def main(
    shape: Annotated[str, typer.Option(help=f"Random numbers in a shape: {', '.join(SHAPES)}.")] = "smollm2-135m",
    recipe: Annotated[str, typer.Option(help="What it is compiled with.")] = "int4",
    context: Annotated[int, typer.Option(min=1, help="Tokens in the cache.")] = 4096,
    pairs: Annotated[int, typer.Option(min=1, help="Rounds; each cache is sampled once in each.")] = 7,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Print a table of decode speeds."""
    folder = checkpoint(SHAPES[shape], default_home())
    models = {name: llmc.compile(folder, recipe=recipe, passes=passes, threads=threads) for name, passes in CACHES.items()}
    sides = {name: Decode(model, context, threads) for name, model in models.items()}
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(pairs + 1):  # the first round warms up
        for name, side in sides.items():
            speed = side.sample()
            samples[name] += [speed] if number else []
    read = CpuBackend().measure_limits(threads)["read"].median
    print(f"{shape}, {recipe}: context {context}, {threads} threads, {pairs} rounds, {read / 1e9:.1f} GB/s read\n")
    print("| cache | tokens/s (median) | ratio to float32 (least to greatest) | MB a step | share of the bound |")
    print("|---|---:|---:|---:|---:|")
    for name, values in samples.items():
        ratios = [value / base for value, base in zip(values, samples["float32"], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        speed, size = statistics.median(values), sides[name].bytes
        print(f"| {name} | {speed:.0f} | {spread} | {size / 1e6:.0f} | {speed * size / read:.0%} |")


if __name__ == "__main__":
    typer.run(main)
