"""One step's tokens as arrays, and the rules that they keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmc.errors import InputError

BLOCK = 32
"""Positions in one block of the cache."""

POSITION = "position"
"""The program input that a batch does not carry: it follows from `first` and `starts`."""

DERIVED = ("lengths", "run", "position")
"""Of a batch, what follows from its arrays and is kept, until a check of arrays that can be written to."""

Int32 = NDArray[np.int32]


@dataclass(frozen=True)
class InputSpec:
    """What a program reads for each token: an array `[T, *shape]` of a NumPy dtype.

    Whole numbers may not be negative, and must be below `limit`, the rows of the smallest table that they index; None if they
    index none.
    """

    dtype: str
    shape: tuple[int, ...] = ()
    limit: int | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """T >= 1 tokens in S runs, each run the next tokens of one sequence.

    inputs: what the program reads for each token besides positions, by name: `input_ids` int64 `[T]`.
    starts: int32 `[S + 1]`; the tokens of run s are `starts[s]` to `starts[s + 1]`, at least one.
    first: int32 `[S]`, the absolute position of each run's first token; the others follow without gaps.
    tables: int32 `[S, W]`, the cache blocks of each run's sequence in order, padded with -1. A block that a run writes is named
        nowhere else among those that the step's runs read or write.
        For a program over whole sequences W is 0, each run a sequence from position 0 on.
    out_rows: int32 `[R]`, indices into the T tokens, in any order, repeats allowed; R may be 0.
    copies: int32 `[C, 2]`, pairs (from, to) of blocks to copy before the step writes. No block is written twice, and none is
        read after it was written: to do them in order, or to read them all and then write them all, is the same.
    sequences: whose runs these are, for whoever made the batch; backends ignore it.
    """

    inputs: Mapping[str, NDArray[Any]]
    starts: Int32
    first: Int32
    tables: Int32
    out_rows: Int32
    copies: Int32 = field(default_factory=lambda: np.zeros((0, 2), np.int32))
    sequences: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """T."""
        return int(self.starts[-1])

    @cached_property
    def lengths(self) -> Int32:
        """Tokens of each run, int32 `[S]`."""
        return self.starts[1:] - self.starts[:-1]

    @cached_property
    def run(self) -> Int32:
        """The run of each token, which is its row of `tables`, int32 `[T]`."""
        if len(self.first) == 1:
            return np.zeros(self.tokens, np.int32)
        return np.repeat(np.arange(len(self.first), dtype=np.int32), self.lengths)

    @cached_property
    def position(self) -> Int32:
        """The absolute position of each token, int32 `[T]`."""
        if len(self.first) == 1:
            return np.arange(self.first[0], self.first[0] + self.tokens, dtype=np.int32)
        return np.arange(self.tokens, dtype=np.int32) + np.repeat(self.first - self.starts[:-1], self.lengths)

    @staticmethod
    def of_sequences(inputs: Mapping[str, Sequence[NDArray[Any]]], out_rows: Int32 | None = None) -> Batch:
        """A step over whole sequences, for a program that asks for them: of each input the sequences' arrays, in one order.

        out_rows: all tokens by default.
        """
        lengths = [len(values) for values in next(iter(inputs.values()))]
        starts = np.cumsum([0, *lengths], dtype=np.int32)
        rows = np.arange(starts[-1], dtype=np.int32) if out_rows is None else out_rows
        joined = {name: np.concatenate(values) for name, values in inputs.items()}
        runs = len(lengths)
        return Batch(joined, starts, np.zeros(runs, np.int32), np.zeros((runs, 0), np.int32), rows)

    def vouched(self, cache_blocks: int) -> Batch:
        """This batch, whose maker knows that it keeps all rules for a cache of so many blocks: arrays become read-only, and
        `check` looks at the inputs alone."""
        for array in (*self.inputs.values(), self.starts, self.first, self.tables, self.out_rows, self.copies):
            array.flags.writeable = False
        self.__dict__["_vouched"] = cache_blocks
        return self

    def check(self, cache_blocks: int, inputs: Mapping[str, InputSpec], whole_sequences: bool = False) -> None:
        """Raise InputError naming what breaks a rule; backends call it before they touch memory.

        inputs: of the program (`Executable.inputs`), its `position` included. whole_sequences: `Executable.whole_sequences`.
        """
        known = not whole_sequences and self._is_vouched(cache_blocks)
        if not known:
            for name in DERIVED:  # arrays may have been written to since these were made of them
                self.__dict__.pop(name, None)
            self._check_arrays()
        self._check_inputs({name: spec for name, spec in inputs.items() if name != POSITION})
        limit = inputs[POSITION].limit if POSITION in inputs else None
        if known and limit is None:
            return
        last = self.first.astype(np.int64) + self.lengths - 1
        _within("first", self.first, None)
        if limit is not None and last.max() >= limit:
            raise InputError(f"position {last.max()} is beyond the {limit} positions that the program has tables for")
        if known:
            return
        _within("out_rows", self.out_rows, self.tokens)
        if whole_sequences:
            self._check_whole()
        else:
            self._check_tables(last // BLOCK, cache_blocks)
            self._check_copies(cache_blocks)

    def _is_vouched(self, cache_blocks: int) -> bool:
        """A copy keeps the word of its maker, but its arrays can be written to again."""
        arrays = (self.starts, self.first, self.tables, self.out_rows, self.copies)
        said = self.__dict__.get("_vouched", cache_blocks + 1) <= cache_blocks
        return said and not any(array.flags.writeable for array in arrays)

    def _check_arrays(self) -> None:
        """Types and shapes of everything but the inputs."""
        for name, rank in (("starts", 1), ("first", 1), ("tables", 2), ("out_rows", 1), ("copies", 2)):
            _is_array(name, getattr(self, name), np.dtype(np.int32), rank)
        runs = len(self.first)
        if len(self.starts) != runs + 1 or len(self.tables) != runs:
            found = f"{len(self.starts)} starts, {runs} first positions and {len(self.tables)} tables"
            raise InputError(f"a batch of S runs has S + 1 starts, S first positions and S tables, not {found}")
        if self.copies.shape[1] != 2:
            raise InputError(f"copies should be pairs [C, 2], not {list(self.copies.shape)}")
        if runs == 0 or self.starts[0] != 0 or (self.starts[1:] <= self.starts[:-1]).any():
            raise InputError("starts must begin with 0 and ascend: a step has at least one run, a run at least one token")

    def _check_inputs(self, expected: Mapping[str, InputSpec]) -> None:
        if expected.keys() != self.inputs.keys():
            missing, unknown = [sorted(a.keys() - b.keys()) for a, b in ((expected, self.inputs), (self.inputs, expected))]
            what = f"lacks the input '{missing[0]}'" if missing else f"has an input '{unknown[0]}'"
            raise InputError(f"the batch {what}; the program reads {', '.join(expected) or 'positions only'}")
        for name, spec in expected.items():
            values, shape = self.inputs[name], (self.tokens, *spec.shape)
            _is_array(f"input '{name}'", values, np.dtype(spec.dtype), len(shape))
            if values.shape != shape:
                raise InputError(f"input '{name}' should have shape {list(shape)}, not {list(values.shape)}")
            if values.dtype.kind == "i":
                _within(f"input '{name}'", values, spec.limit)

    def _check_whole(self) -> None:
        if self.first.any():
            where = f"run {self.first.argmax()} starts at position {self.first.max()}"
            raise InputError(f"{where}; this program reads whole sequences, from position 0 on")
        if self.tables.shape[1] or len(self.copies):
            raise InputError("this program reads whole sequences without a cache: tables have no columns, nothing is copied")

    def _check_tables(self, end: NDArray[Any], cache_blocks: int) -> None:
        """Each run has its blocks up to `end` [S]; what one run writes no other entry names."""
        column = np.arange(self.tables.shape[1])
        used, begin = column <= end[:, None], self.first // BLOCK
        short = (end >= len(column)) | (used & (self.tables < 0)).any(1)
        if short.any():
            raise InputError(f"run {short.argmax()} lacks cache blocks: it needs {end[short.argmax()] + 1}")
        _within("tables", self.tables, cache_blocks, least=-1)
        written = used & (column >= begin[:, None])
        writers = np.bincount(self.tables[written], minlength=cache_blocks)
        named = writers + np.bincount(self.tables[used & ~written], minlength=cache_blocks)
        shared = (writers > 0) & (named > 1)
        if shared.any():
            raise InputError(f"cache block {shared.argmax()} is written at one place and stands at another; copy it first")

    def _check_copies(self, cache_blocks: int) -> None:
        if not len(self.copies):
            return
        _within("copies", self.copies, cache_blocks)
        sources, targets = self.copies.T
        order = np.arange(len(targets))
        written = np.full(cache_blocks, len(targets))  # which pair writes a block
        written[targets] = order
        wrong = np.flatnonzero((written[targets] != order) | (written[sources] < order))
        if len(wrong):
            pair = tuple(self.copies[wrong[0]].tolist())
            raise InputError(f"copy {pair} meets another: no block is copied to twice, or read after it was copied to")


def _is_array(name: str, values: Any, dtype: np.dtype[Any], rank: int) -> None:
    if not isinstance(values, np.ndarray) or values.dtype != dtype or values.ndim != rank:
        found = f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else type(values).__name__
        raise InputError(f"{name} should be a {dtype} array of {rank} dimensions, not {found}")


def _within(name: str, values: NDArray[Any], limit: int | None, least: int = 0) -> None:
    """Refuse whole numbers below `least`, or at or above the limit."""
    if not values.size:
        return
    low, high = values.min(), values.max()
    if low < least or (limit is not None and high >= limit):
        allowed = f"{least} upwards" if limit is None else f"{least} to {limit - 1}"
        raise InputError(f"{name} has {low if low < least else high}; {allowed} is allowed")
