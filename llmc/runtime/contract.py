"""The step contract: what a backend is given, what it gives back, and what may change no bit of it.

A model runs by steps. A step takes a flat list of T tokens from any mix of sequences, writes their keys and values to the
cache, lets each token attend to the positions of its own sequence that its score expression admits (those of the same step
included), and gives the outputs of the R rows that were asked for.

The cache is cut into blocks of BLOCK positions. Position p of a sequence lives in slot `p % BLOCK` of the block
`blocks[sequence][p // BLOCK]`. Which sequence has which blocks is decided outside (`llmc.runtime.sequences`); a backend only
follows the tables. Each pair of key and value nodes that an attention reads has a cache of its own; attentions that share the
pair share the cache.

Reduction order: the order in which a backend adds up is fixed by (K, format, instruction set); attention splits at absolute
positions. Batch size, chunking, row selection and the number of threads change no bit of a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmc.errors import InputError, UnsupportedError

BLOCK = 32
"""Positions in one block of the cache."""

Int32 = NDArray[np.int32]


@dataclass(frozen=True)
class Batch:
    """One step's tokens.

    inputs: what the program reads for each token besides positions, by name: `input_ids` int64 `[T]`.
    sequence: int32 `[T]`, the sequence of each token. Tokens of one sequence stand together.
    position: int32 `[T]`, absolute, ascending without gaps within a sequence.
    out_rows: int32 `[R]`, indices into the T tokens, in the order wanted; R may be 0.
    blocks: for each sequence its cache blocks, int32, enough for its last position.
    copies: pairs (from, to) of blocks to copy, in order, before the step (a fork that is about to be written).
    """

    inputs: Mapping[str, NDArray[Any]]
    sequence: Int32
    position: Int32
    out_rows: Int32
    blocks: Mapping[int, Int32]
    copies: tuple[tuple[int, int], ...] = ()

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.position)

    def runs(self) -> list[tuple[int, int, int]]:
        """(sequence, start, stop) for each sequence of the step: its tokens are start to stop."""
        edges = np.flatnonzero(np.diff(self.sequence)) + 1
        starts = [0, *edges.tolist()] if len(self.sequence) else []
        stops = [*starts[1:], len(self.sequence)]
        return [(int(self.sequence[a]), a, b) for a, b in zip(starts, stops, strict=True)]

    def check(self, cache_blocks: int) -> None:
        """Raise InputError if the batch breaks the contract; backends call it before they touch memory."""
        count = self.tokens
        if any(len(values) != count for values in (self.sequence, *self.inputs.values())):
            raise InputError(f"a step of {count} positions has inputs of other lengths")
        if len(self.out_rows) and not (self.out_rows.min() >= 0 and self.out_rows.max() < count):
            raise InputError(f"out_rows must be between 0 and {count - 1}")
        seen: set[int] = set()
        for sequence, start, stop in self.runs():
            if sequence in seen:
                raise InputError(f"tokens of sequence {sequence} do not stand together")
            seen.add(sequence)
            positions = self.position[start:stop]
            if positions[0] < 0 or np.any(np.diff(positions) != 1):
                raise InputError(f"positions of sequence {sequence} are negative or not ascending without gaps")
            table = self.blocks.get(sequence)
            if table is None or len(table) * BLOCK <= positions[-1]:
                raise InputError(f"sequence {sequence} has no cache block for position {positions[-1]}")
            if table.min() < 0 or table.max() >= cache_blocks:
                raise InputError(f"sequence {sequence} names a cache block outside 0..{cache_blocks - 1}")
        if any(not 0 <= block < cache_blocks for pair in self.copies for block in pair):
            raise InputError(f"a copy names a cache block outside 0..{cache_blocks - 1}")


class Context(ABC):
    """A running model: one cache. Contexts of one executable share its weights and know nothing of each other."""

    @abstractmethod
    def step(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Each output by name, `[R, ...]`. Raises InputError if the batch breaks the contract."""


class Executable(ABC):
    """A lowered program."""

    @abstractmethod
    def context(self, cache_blocks: int, threads: int | None = None) -> Context:
        """A context whose cache has so many blocks. threads None: as many as there are cores."""

    @abstractmethod
    def sources(self) -> dict[str, str]:
        """The code that runs, by file name; the main file first."""


@dataclass(frozen=True)
class Availability:
    """Whether a backend can run here and if not, why."""

    available: bool
    reason: str = ""


class Backend(ABC):
    """Lowers programs. One instance may lower many."""

    name: str
    formats: tuple[str, ...] = ("f32",)

    @abstractmethod
    def lower(self, program: Any) -> Executable:
        """An executable for a Program. Raises UnsupportedError naming op and origin if something cannot be lowered."""

    def availability(self) -> Availability:
        """Whether this backend can run on this machine."""
        return Availability(True)

    def version(self) -> str:
        """What generated code depends on besides the program; part of cache keys."""
        return "1"


def unsupported(backend: str, op: str, origin: object, reason: str) -> UnsupportedError:
    """The error of a backend that cannot lower a node."""
    return UnsupportedError(f"backend '{backend}' cannot lower '{op}' of {origin}: {reason}")
