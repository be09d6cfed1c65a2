"""The forms that a step may take, and what results are compared by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmc.runtime.contract import Context, Executable
from llmc.runtime.sequences import Sequences

Logits = NDArray[np.float32]
CACHE_BLOCKS = 64

CLOSE = 1e-5
"""Relative error of float32 results against exact ones, and of rows against the same rows in other company where a backend
is not `row_exact`."""


class Runner:
    """Sequences of one context, stepped by hand; what comes back is the program's first output."""

    def __init__(self, context: Context) -> None:
        self.context, self.sequences = context, Sequences(CACHE_BLOCKS)

    def step(self, work: list[tuple[int, list[int]]]) -> Logits:
        """One step over runs of (sequence, ids); all rows."""
        return next(iter(self.outputs(work).values()))

    def outputs(self, work: list[tuple[int, list[int]]]) -> dict[str, Logits]:
        """All outputs of such a step."""
        batch = self.sequences.batch(work, ["all"] * len(work))
        return {name: np.asarray(values) for name, values in self.context.step(batch).items()}


def prefill(context: Context, ids: list[int]) -> Logits:
    """All at once."""
    return chunked(context, ids, len(ids))


def chunked(context: Context, ids: list[int], size: int) -> Logits:
    """`size` tokens a step; 1 is decoding."""
    return next(iter(chunked_all(context, ids, size).values()))


def chunked_all(context: Context, ids: list[int], size: int) -> dict[str, Logits]:
    """Every output."""
    runner = Runner(context)
    sequence = runner.sequences.create()
    steps = [runner.outputs([(sequence, ids[i : i + size])]) for i in range(0, len(ids), size)]
    return {name: np.concatenate([step[name] for step in steps]) for name in steps[0]}


def ragged(context: Context, prompts: list[list[int]]) -> list[Logits]:
    """Several sequences whose chunks meet in the same steps: prefill of some beside decoding of others."""
    runner = Runner(context)
    names = [runner.sequences.create() for _ in prompts]
    done: list[list[Logits]] = [[] for _ in prompts]
    sizes = [1, 7, 3, 40]
    at = [0] * len(prompts)
    while any(at[i] < len(p) for i, p in enumerate(prompts)):
        work = [(i, prompts[i][at[i] : at[i] + sizes[i % 4]]) for i in range(len(prompts)) if at[i] < len(prompts[i])]
        rows = runner.step([(names[i], ids) for i, ids in work])
        start = 0
        for i, ids in work:
            done[i].append(rows[start : start + len(ids)])
            start, at[i] = start + len(ids), at[i] + len(ids)
    return [np.concatenate(parts) for parts in done]


def relative_error(values: NDArray[Any], reference: NDArray[Any]) -> float:
    """Norm of the difference over the norm."""
    return float(np.linalg.norm(values - reference) / max(float(np.linalg.norm(reference)), 1e-9))


def same_rows(executable: Executable, values: NDArray[Any], expected: NDArray[Any], tolerance: float = CLOSE) -> bool:
    """Whether rows are what they were in other company: bit for bit if the backend says so, else within a tolerance."""
    if executable.row_exact or values.dtype.kind != "f":
        return np.array_equal(values, expected)
    return values.shape == expected.shape and relative_error(values, expected) <= tolerance
