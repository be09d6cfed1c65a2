"""The outputs for whole sequences, in bounded steps with a bounded cache."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llmc.runtime.contract import Batch, Context
from llmc.runtime.sequences import Rows, Sequences, blocks_for, split_steps


def step_rows(context: Context, batch: Batch, output: str) -> NDArray[np.float32]:
    """Run a step; one output of the rows that were asked for, `[R, ...]`, in this process's memory.

    The batch is one of `Sequences.batch`, whose rows ascend: an output that has an entry for each of T tokens is cut to those
    rows, which changes nothing where R = T.
    """
    values = np.asarray(context.step(batch)[output])
    return values[batch.out_rows] if len(values) == batch.tokens else values


def step_largest(context: Context, batch: Batch, output: str) -> NDArray[np.int64]:
    """Run a step; where the largest number of each row that was asked for is, int64 `[R]` (`Context.step_largest`)."""
    places = context.step_largest(batch, output)
    return places[batch.out_rows] if len(places) == batch.tokens else places


def forward(
    lease: Callable[[int], AbstractContextManager[Context]],
    output: str,
    runs: list[list[int]],
    rows: Literal["all", "last"],
) -> list[NDArray[np.float32]]:
    """One output for each run of token ids, none of them empty: float32 `[len, ...]`, or `[1, ...]` for rows "last"."""
    if not runs:
        return []
    steps = list(split_steps(runs))
    # A sequence is freed with the step that ends it, so only those of one step are in the cache together.
    blocks = max(sum(blocks_for(len(runs[i])) for i, _, _ in step) for step in steps)
    parts: list[list[NDArray[np.float32]]] = [[] for _ in runs]
    with lease(blocks) as context:
        sequences = Sequences(blocks)
        ids: dict[int, int] = {}
        for step in steps:
            ids.update((i, sequences.create()) for i, start, _ in step if start == 0)
            wanted: list[Rows] = ["none" if rows == "last" and stop < len(runs[i]) else rows for i, _, stop in step]
            batch = sequences.batch([(ids[i], runs[i][start:stop]) for i, start, stop in step], wanted)
            values = step_rows(context, batch, output)
            owner = batch.run[batch.out_rows]
            for run, (i, _, stop) in enumerate(step):
                parts[i].append(values[owner == run])
                if stop == len(runs[i]):
                    sequences.free(ids.pop(i))
    return [np.concatenate(part) for part in parts]
