"""Which sequence has which blocks of the cache: tables with reference counts, copied on write."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from llmc.errors import InputError
from llmc.runtime.contract import BLOCK, Batch, Int32

Rows = Literal["last", "all", "none"]

STEP_TOKENS = 512
"""Most tokens that one step is given: enough to keep matrix products busy, few enough to bound its activations."""


def blocks_for(length: int) -> int:
    """Cache blocks that so many positions take."""
    return -(-length // BLOCK)


def split_steps(runs: Iterable[Sequence[int]], limit: int = STEP_TOKENS) -> Iterator[list[tuple[int, int, int]]]:
    """Cut runs of tokens into steps of at most `limit` tokens in all: lists of (index of the run, start, stop)."""
    step: list[tuple[int, int, int]] = []
    room = limit
    for index, run in enumerate(runs):
        start = 0
        while start < len(run):
            stop = min(len(run), start + room)
            step.append((index, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield step
                step, room = [], limit
    if step:
        yield step


class Sequences:
    """Block tables of the sequences that share one context's cache.

    A fork shares all blocks with its origin; the first of them to append to a partly filled shared block gets a copy of it.
    Copies are only noted here: whoever steps takes them (`take_copies`, or `batch`) with the step that follows. They are
    never dropped, even when their blocks are freed meanwhile: done in order before any write, each one is either needed by
    a later copy or lands in a block whose content nobody relies on. Positions that were reserved but not yet written by a
    step must not be forked.
    """

    def __init__(self, cache_blocks: int) -> None:
        self.cache_blocks = cache_blocks
        self._free = list(range(cache_blocks - 1, -1, -1))  # taken from the end: low numbers first
        self._references = [0] * cache_blocks
        self._tables: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}
        self._copies: list[tuple[int, int]] = []
        self._ids = itertools.count()

    def create(self) -> int:
        """A new empty sequence."""
        sequence = next(self._ids)
        self._tables[sequence], self._lengths[sequence] = [], 0
        return sequence

    def fork(self, sequence: int) -> int:
        """A new sequence with the same content, sharing its blocks."""
        table, length = self._table(sequence), self._lengths[sequence]
        for block in table:
            self._references[block] += 1
        other = self.create()
        self._tables[other], self._lengths[other] = list(table), length
        return other

    def append(self, sequence: int, count: int) -> None:
        """Reserve `count` more positions. Raises InputError, and changes nothing, if the cache has too few blocks."""
        self._reserve([(sequence, count)])

    def truncate(self, sequence: int, length: int) -> None:
        """Keep the first `length` positions."""
        table = self._table(sequence)
        if not 0 <= length <= self._lengths[sequence]:
            raise InputError(f"cannot cut sequence {sequence} of {self._lengths[sequence]} positions to {length}")
        for block in table[blocks_for(length) :]:
            self._release(block)
        del table[blocks_for(length) :]
        self._lengths[sequence] = length

    def free(self, sequence: int) -> None:
        """Forget a sequence; blocks that no other one shares can be used again."""
        for block in self._table(sequence):
            self._release(block)
        del self._tables[sequence], self._lengths[sequence]

    def length(self, sequence: int) -> int:
        """Positions it has."""
        self._table(sequence)
        return self._lengths[sequence]

    def table(self, sequence: int) -> Int32:
        """Its blocks, int32 `[blocks]`."""
        return np.array(self._table(sequence), dtype=np.int32)

    def take_copies(self) -> tuple[tuple[int, int], ...]:
        """The (from, to) pairs noted since they were last taken, in the order in which they must be done."""
        copies, self._copies = tuple(self._copies), []
        return copies

    def batch(self, tokens: Sequence[tuple[int, Sequence[int]]], out: Sequence[Rows]) -> Batch:
        """Append token ids to sequences and build the step that reads them.

        tokens: (sequence, ids) pairs, each sequence once, with at least one id. out: for each pair, which of its rows the
        step gives. The ids become the input `input_ids`, int64 `[T]`. Raises InputError, and changes nothing, if a sequence
        is unknown or comes twice, a list is empty, or the cache has too few blocks.
        """
        if len({sequence for sequence, _ in tokens}) != len(tokens) or not all(len(ids) for _, ids in tokens):
            raise InputError("a batch takes each sequence once, with at least one token")
        counts = [len(ids) for _, ids in tokens]
        rows: list[int] = []
        for rows_of, stop, count in zip(out, np.cumsum(counts).tolist(), counts, strict=True):
            first = {"all": stop - count, "last": stop - 1, "none": stop}[rows_of]
            rows.extend(range(first, stop))
        starts = [self.length(sequence) for sequence, _ in tokens]
        self._reserve([(sequence, len(ids)) for sequence, ids in tokens])
        return Batch(
            inputs={"input_ids": np.array([token for _, ids in tokens for token in ids], dtype=np.int64)},
            sequence=np.repeat(np.array([sequence for sequence, _ in tokens], dtype=np.int32), counts),
            position=np.array([p for n, p0 in zip(counts, starts, strict=True) for p in range(p0, p0 + n)], dtype=np.int32),
            out_rows=np.array(rows, dtype=np.int32),
            blocks={sequence: self.table(sequence) for sequence, _ in tokens},
            copies=self.take_copies(),
        )

    def _reserve(self, wanted: Sequence[tuple[int, int]]) -> None:
        needed = self._blocks_needed(wanted)
        if needed > len(self._free):
            raise InputError(
                f"out of cache: {needed} blocks of {BLOCK} positions are needed, "
                f"{len(self._free)} of {self.cache_blocks} are free"
            )
        for sequence, count in wanted:
            table, length = self._tables[sequence], self._lengths[sequence] + count
            if count and self._writes_into(sequence) and self._references[table[-1]] > 1:
                copy = self._take()
                self._copies.append((table[-1], copy))
                self._release(table[-1])
                table[-1] = copy
            while len(table) < blocks_for(length):
                table.append(self._take())
            self._lengths[sequence] = length

    def _blocks_needed(self, wanted: Sequence[tuple[int, int]]) -> int:
        needed = 0
        left: Counter[int] = Counter()  # of the sequences sharing a block, the last one to leave needs no copy
        for sequence, count in wanted:
            table = self._table(sequence)
            if count < 0:
                raise InputError(f"cannot append {count} positions to sequence {sequence}")
            needed += blocks_for(self._lengths[sequence] + count) - len(table)
            if count and self._writes_into(sequence) and self._references[table[-1]] - left[table[-1]] > 1:
                left[table[-1]] += 1
                needed += 1
        return needed

    def _writes_into(self, sequence: int) -> bool:
        """Whether its next position lies in a block that it has."""
        return self._lengths[sequence] % BLOCK != 0

    def _table(self, sequence: int) -> list[int]:
        if sequence not in self._tables:
            raise InputError(f"there is no sequence {sequence}")
        return self._tables[sequence]

    def _take(self) -> int:
        block = self._free.pop()
        self._references[block] = 1
        return block

    def _release(self, block: int) -> None:
        self._references[block] -= 1
        if self._references[block] == 0:
            self._free.append(block)
