"""Which sequence has which blocks of the cache: tables with reference counts, copied on write."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llmc.errors import InputError
from llmc.runtime.contract import BLOCK, Batch, Int32

Rows = Literal["last", "all", "none"]

STEP_TOKENS = 512
"""Most tokens that one step is given: enough to keep matrix products busy, few enough to bound its activations."""


NO_COPIES = np.zeros((0, 2), np.int32)


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
    Copies are only noted here: whoever steps takes them (`batch`, or `take_copies`) with the step that follows. A copy of a
    copy is noted from where the content is now, one that nobody will read is forgotten, and a block that is freed while a copy
    from it is noted takes the copy's place; so no block is ever both copied from and copied to. Positions that were reserved
    but not yet written by a step must not be forked.
    """

    def __init__(self, cache_blocks: int) -> None:
        self.cache_blocks = cache_blocks
        self._free = list(range(cache_blocks - 1, -1, -1))  # taken from the end: low numbers first
        self._references = [0] * cache_blocks
        self._tables: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}
        self._copies: dict[int, int] = {}  # block to copy to: from
        self._ids = itertools.count()
        self._last: Batch | None = None  # what `undo` would take back

    def create(self) -> int:
        """A new empty sequence."""
        sequence = next(self._ids)
        self._tables[sequence], self._lengths[sequence] = [], 0
        return sequence

    def fork(self, sequence: int) -> int:
        """A new sequence with the same content, sharing its blocks."""
        table, length = self._table(sequence), self._lengths[sequence]
        self._last = None
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
        self._last = None
        self._cut(table, blocks_for(length))
        self._lengths[sequence] = length

    def free(self, sequence: int) -> None:
        """Forget a sequence; blocks that no other one shares can be used again."""
        table = self._table(sequence)
        self._last = None
        self._cut(table, 0)
        del self._tables[sequence], self._lengths[sequence]

    def length(self, sequence: int) -> int:
        """Positions it has."""
        self._table(sequence)
        return self._lengths[sequence]

    def table(self, sequence: int) -> Int32:
        """Its blocks, int32 `[blocks]`."""
        return np.array(self._table(sequence), dtype=np.int32)

    def take_copies(self) -> Int32:
        """The pairs (from, to) noted since they were last taken, int32 `[C, 2]`, for `Batch.copies`."""
        if not self._copies:
            self._last = None
            return NO_COPIES
        copies = np.array([(source, target) for target, source in self._copies.items()], np.int32).reshape(-1, 2)
        self._copies, self._last = {}, None
        return copies

    def batch(self, tokens: Sequence[tuple[int, Sequence[int]]], out: Sequence[Rows]) -> Batch:
        """Append token ids to sequences and build the step that reads them.

        tokens: (sequence, ids) pairs, each sequence once, with at least one id. out: for each pair, which of its rows the
        step gives. The ids become the input `input_ids`, int64 `[T]`. Raises InputError, and changes nothing, if there are no
        pairs, a sequence is unknown or comes twice, a list is empty or holds something else than ids, or the cache has too few
        blocks.
        """
        names = [sequence for sequence, _ in tokens]
        ids = [_ids(given) for _, given in tokens]
        if not tokens or len(set(names)) != len(names) or not all(map(len, ids)):
            raise InputError("a batch takes at least one sequence, each once, with at least one token")
        first = np.array([self.length(sequence) for sequence in names], np.int32)
        starts = [0, *itertools.accumulate(map(len, ids))]
        rows = [row for bounds in zip(out, starts[:-1], starts[1:], strict=True) for row in _rows(*bounds)]
        self._reserve([(sequence, len(given)) for sequence, given in zip(names, ids, strict=True)])
        tables = [self._tables[sequence] for sequence in names]
        width = max(map(len, tables))
        batch = Batch(
            inputs={"input_ids": np.concatenate(ids)},
            starts=np.array(starts, np.int32),
            first=first,
            tables=np.array([[*table, *[-1] * (width - len(table))] for table in tables], np.int32),
            out_rows=np.array(rows, np.int32),
            copies=self.take_copies(),
            sequences=tuple(names),
        ).vouched(self.cache_blocks)
        self._last = batch
        return batch

    def undo(self, batch: Batch) -> None:
        """Take back the batch that was made last: its step was refused with an InputError, or will not be run.

        The sequences have their lengths of before, blocks that were added for it are free, and the copies that it carried go
        with the next batch instead. Raises InputError if the sequences were changed since it was made.
        """
        if batch is not self._last:
            raise InputError("only the last batch can be undone, before its sequences are changed in another way")
        self._copies = {target: source for source, target in batch.copies.tolist()}
        for sequence, length in zip(batch.sequences, batch.first.tolist(), strict=True):
            self.truncate(sequence, length)

    def _reserve(self, wanted: Sequence[tuple[int, int]]) -> None:
        needed = self._blocks_needed(wanted)
        if needed > len(self._free):
            raise InputError(
                f"out of cache: {needed} blocks of {BLOCK} positions are needed, "
                f"{len(self._free)} of {self.cache_blocks} are free"
            )
        self._last = None
        for sequence, count in wanted:
            table, length = self._tables[sequence], self._lengths[sequence] + count
            if count and self._writes_into(sequence) and self._references[table[-1]] > 1:
                shared, table[-1] = table[-1], self._take()
                self._copies[table[-1]] = self._copies.get(shared, shared)
                self._references[shared] -= 1
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

    def _cut(self, table: list[int], blocks: int) -> None:
        """Release all blocks of a table but the first ones."""
        released = table[blocks:]
        del table[blocks:]
        for block in released:
            self._references[block] -= 1
            if self._references[block] == 0:
                self._copies.pop(block, None)
                self._free.append(self._replace_copy(block))

    def _replace_copy(self, block: int) -> int:
        """Let a block that nobody refers to any more take the place of a copy of it; the block that is free then."""
        copy = next((target for target, source in self._copies.items() if source == block), None)
        if copy is None:
            return block
        del self._copies[copy]
        for table in self._tables.values():
            table[:] = [block if entry == copy else entry for entry in table]
        self._references[block], self._references[copy] = self._references[copy], 0
        return copy


def _ids(given: Sequence[int]) -> NDArray[np.int64]:
    try:
        ids = np.asarray(given)
    except ValueError as error:
        raise InputError(f"token ids must be a list of whole numbers: {error}") from error
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise InputError(f"token ids must be a list of whole numbers below 2**63, not {ids.dtype} {list(ids.shape)}")
    return ids.astype(np.int64, copy=False)


def _rows(rows: Rows, start: int, stop: int) -> range:
    """The rows of a run from start to stop that are wanted."""
    return range({"all": start, "last": stop - 1, "none": stop}[rows], stop)
