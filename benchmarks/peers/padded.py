"""Encoders that read rectangles of padded sentences."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.base import Engine
from benchmarks.workloads import Workload

SIZES = (1, 2, 4, 8, 16, 32)


class PaddedEncoder(Engine):
    """Sentences are sorted by their lengths and read so many at a time; how many is tried out before anything is timed."""

    weight_bytes = cache_bytes = 0
    vocab: int

    @abstractmethod
    def forward(self, copy: int, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> None:
        """Read a rectangle `[sentences, positions]`."""

    def prepare(self, workload: Workload, copies: int) -> None:
        self.workload = workload
        self.rectangles = rectangles(workload, 1, self.vocab)

    def tune(self) -> str:
        def seconds(size: int) -> float:
            self.rectangles = rectangles(self.workload, size, self.vocab)
            self.step(0)
            began = time.perf_counter()
            self.step(0)
            return time.perf_counter() - began

        best, fastest = 1, math.inf
        for size in SIZES:
            took = seconds(size)
            best, fastest = (size, took) if took < fastest else (best, fastest)
        self.rectangles = rectangles(self.workload, best, self.vocab)
        return f"{best} sentences at a time"

    def step(self, copy: int) -> None:
        for ids, mask in self.rectangles:
            self.forward(copy, ids, mask)

    def reset(self, copy: int) -> None:
        pass


def rectangles(workload: Workload, size: int, vocab: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Random ids and masks, int64 `[size, longest]` each."""
    random, lengths = np.random.default_rng(0), sorted(workload.prompts)
    made = []
    for start in range(0, len(lengths), size):
        part = np.array(lengths[start : start + size])
        mask = (np.arange(part.max()) < part[:, None]).astype(np.int64)
        made.append((random.integers(1, vocab, mask.shape) * mask, mask))
    return made
