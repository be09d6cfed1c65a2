"""Encoders that read rectangles of padded sentences."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.base import Engine
from benchmarks.workloads import Workload

SIZES = (1, 2, 4, 8, 16, 32)
Rectangle = tuple[NDArray[Any], NDArray[Any]]


class PaddedEncoder(Engine):
    """Sentences are sorted by their lengths and read so many at a time, by all threads together or by each thread for itself;
    how many, and by whom, is tried out before anything is timed."""

    weight_bytes = cache_bytes = 0
    vocab: int

    @abstractmethod
    def forward(self, copy: int, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> None:
        """Read a rectangle `[sentences, positions]` by all threads."""

    @abstractmethod
    def forward_apart(self, copy: int, rectangles: list[Rectangle]) -> None:
        """Read rectangles, each by one thread, as many at a time as there are threads."""

    def prepare(self, workload: Workload, copies: int) -> None:
        self.workload = workload
        self.use(False, 1)

    def use(self, apart: bool, size: int) -> None:
        """Read so many sentences at a time, by each thread for itself or by all together."""
        self.apart, self.rectangles = apart, rectangles(self.workload, size, self.vocab)
        if apart:  # the longest first, so that threads end together
            self.rectangles.reverse()

    def tune(self) -> str:
        def seconds(way: tuple[bool, int]) -> float:
            self.use(*way)
            took = []
            for _ in range(3):
                began = time.perf_counter()
                self.step(0)
                took.append(time.perf_counter() - began)
            return min(took[1:])

        apart, size = min(((apart, size) for apart in (False, True) for size in SIZES), key=seconds)
        self.use(apart, size)
        return f"{size} sentences at a time{', on each thread' if apart else ''}"

    def step(self, copy: int) -> None:
        if self.apart:
            self.forward_apart(copy, self.rectangles)
            return
        for ids, mask in self.rectangles:
            self.forward(copy, ids, mask)

    def reset(self, copy: int) -> None:
        pass


def rectangles(workload: Workload, size: int, vocab: int) -> list[Rectangle]:
    """Random ids and masks, int64 `[size, longest]` each."""
    random, lengths = np.random.default_rng(0), sorted(workload.prompts)
    made = []
    for start in range(0, len(lengths), size):
        part = np.array(lengths[start : start + size])
        mask = (np.arange(part.max()) < part[:, None]).astype(np.int64)
        made.append((random.integers(1, vocab, mask.shape) * mask, mask))
    return made
