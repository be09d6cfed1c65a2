"""Block tables against lists: what is read through the tables is what was written."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from llmc.errors import InputError
from llmc.runtime.contract import BLOCK
from llmc.runtime.sequences import Sequences, blocks_for, split_steps

CACHE_BLOCKS = 9
COUNTS = st.one_of(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3 * BLOCK), st.just(BLOCK))


class CachedSequences(RuleBasedStateMachine):
    """Each sequence is also a plain list of what was written; the cache is an array that copies are applied to."""

    ids = Bundle("ids")

    @initialize()
    def start(self):
        self.sequences = Sequences(CACHE_BLOCKS)
        self.cache = np.full((CACHE_BLOCKS, BLOCK), -1)
        self.written: dict[int, list[int]] = {}
        self.values = itertools.count()

    @precondition(lambda self: len(self.written) < 2)  # otherwise sequences come from forks, which share
    @rule(target=ids)
    def create(self):
        sequence = self.sequences.create()
        self.written[sequence] = []
        return sequence

    @rule(target=ids, sequence=ids)
    def fork(self, sequence):
        other = self.sequences.fork(sequence)
        self.written[other] = list(self.written[sequence])
        return other

    @rule(sequence=ids, part=st.floats(0, 1))
    def truncate(self, sequence, part):
        length = int(part * len(self.written[sequence]))
        self.sequences.truncate(sequence, length)
        del self.written[sequence][length:]

    @rule(sequence=consumes(ids))
    def free(self, sequence):
        self.sequences.free(sequence)
        del self.written[sequence]

    @rule(sequence=ids, count=COUNTS)
    def step_one(self, sequence, count):
        self.step([sequence], [count])

    @rule(chosen=st.lists(ids, min_size=1, max_size=4, unique=True), data=st.data())
    def step_several(self, chosen, data):
        self.step(chosen, [data.draw(COUNTS) for _ in chosen])

    @rule(sequence=ids, count=COUNTS)
    def reserve_and_give_up(self, sequence, count):
        """Notes a copy that no step takes at once, sometimes of blocks that are then freed."""
        if self.needed([sequence], [count]) <= self.free_blocks():
            self.sequences.append(sequence, count)
            self.sequences.truncate(sequence, len(self.written[sequence]))

    def step(self, chosen, counts):
        tokens = [(sequence, [next(self.values) for _ in range(n)]) for sequence, n in zip(chosen, counts, strict=True)]
        if self.needed(chosen, counts) > self.free_blocks():
            before = self.tables()
            with pytest.raises(InputError, match="out of cache"):
                self.sequences.batch(tokens, ["last"] * len(tokens))
            assert self.tables() == before
            return
        batch = self.sequences.batch(tokens, ["all"] * len(tokens))
        batch.check(CACHE_BLOCKS)
        self.apply(batch.copies)
        ids = batch.inputs["input_ids"]
        for sequence, position, value in zip(batch.sequence, batch.position, ids, strict=True):
            self.cache[batch.blocks[sequence][position // BLOCK], position % BLOCK] = value
        for sequence, values in tokens:
            self.written[sequence] += values
        self.check()

    @rule()
    def check(self):
        self.apply(self.sequences.take_copies())
        for sequence, values in self.written.items():
            assert self.cache[self.sequences.table(sequence)].ravel()[: len(values)].tolist() == values

    @invariant()
    def tables_are_as_long_as_needed(self):
        for sequence, values in self.written.items():
            assert self.sequences.length(sequence) == len(values)
            assert len(self.sequences.table(sequence)) == blocks_for(len(values))

    def apply(self, copies):
        for source, target in copies:
            self.cache[target] = self.cache[source]

    def tables(self):
        return {sequence: self.sequences.table(sequence).tolist() for sequence in self.written}

    def free_blocks(self):
        return CACHE_BLOCKS - len({block for table in self.tables().values() for block in table})

    def needed(self, chosen, counts):
        """Blocks that the cache must have free, worked out from the tables alone."""
        tables = self.tables()
        shared = [block for table in tables.values() for block in table]
        needed = 0
        for sequence, count in zip(chosen, counts, strict=True):
            length = len(self.written[sequence])
            needed += blocks_for(length + count) - blocks_for(length)
            if length % BLOCK and shared.count(tables[sequence][-1]) > 1:
                shared.remove(tables[sequence][-1])
                needed += 1
        return needed

    def teardown(self):
        if hasattr(self, "sequences"):
            self.check()


TestCachedSequences = CachedSequences.TestCase
TestCachedSequences.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


def test_fork_shares_full_blocks_and_copies_the_last_when_written():
    sequences = Sequences(8)
    first = sequences.create()
    sequences.append(first, BLOCK + 1)
    second = sequences.fork(first)
    assert sequences.table(second).tolist() == [0, 1]
    sequences.append(second, 1)
    assert sequences.table(second).tolist() == [0, 2]
    assert sequences.table(second).dtype == np.int32
    sequences.append(first, 1)
    assert sequences.table(first).tolist() == [0, 1]
    assert sequences.take_copies() == ((1, 2),)
    assert sequences.take_copies() == ()


def test_copy_of_a_copy_is_kept_in_order_when_the_block_between_is_freed():
    sequences = Sequences(8)
    first = sequences.create()
    sequences.append(first, 5)
    second = sequences.fork(first)
    sequences.append(second, 1)
    sequences.truncate(second, 5)
    third = sequences.fork(second)
    sequences.append(third, 1)
    sequences.free(second)
    assert sequences.table(third).tolist() == [2]
    assert sequences.take_copies() == ((0, 1), (1, 2))


def test_last_of_the_sequences_sharing_a_block_needs_no_copy_in_the_same_batch():
    sequences = Sequences(2)
    first = sequences.create()
    sequences.append(first, 5)
    second = sequences.fork(first)
    batch = sequences.batch([(first, [1]), (second, [2])], ["last", "last"])
    assert batch.copies == ((0, 1),)
    assert (batch.blocks[first].tolist(), batch.blocks[second].tolist()) == ([1], [0])


def test_cut_sequence_that_grows_again_copies_the_block_it_shares():
    sequences = Sequences(4)
    first = sequences.create()
    sequences.append(first, 2 * BLOCK)
    second = sequences.fork(first)
    sequences.truncate(second, BLOCK + 3)
    sequences.append(second, 1)
    assert sequences.take_copies() == ((1, 2),)


def test_appending_nothing_copies_nothing():
    sequences = Sequences(2)
    first = sequences.create()
    sequences.append(first, 1)
    sequences.append(sequences.fork(first), 0)
    assert sequences.take_copies() == ()


def test_full_cache_names_what_is_needed_and_free():
    sequences = Sequences(3)
    sequence = sequences.create()
    sequences.append(sequence, 2 * BLOCK)
    with pytest.raises(InputError, match="2 blocks of 32 positions are needed, 1 of 3 are free"):
        sequences.append(sequence, BLOCK + 1)
    sequences.append(sequence, BLOCK)


def test_batch_gives_the_rows_asked_for():
    sequences = Sequences(4)
    a, b, c = (sequences.create() for _ in range(3))
    sequences.append(b, 5)
    batch = sequences.batch([(a, [7, 8]), (b, [9, 10, 11]), (c, [12])], ["none", "all", "last"])
    assert batch.inputs["input_ids"].tolist() == [7, 8, 9, 10, 11, 12]
    assert batch.inputs["input_ids"].dtype == np.int64
    assert batch.sequence.tolist() == [a, a, b, b, b, c]
    assert batch.position.tolist() == [0, 1, 5, 6, 7, 0]
    assert batch.out_rows.tolist() == [2, 3, 4, 5]
    assert {batch.sequence.dtype, batch.position.dtype, batch.out_rows.dtype} == {np.dtype(np.int32)}


@pytest.mark.parametrize("tokens", [[(0, [1]), (0, [2])], [(0, [])], [(0, [1]), (5, [1])]])
def test_refused_batch_changes_nothing(tokens):
    sequences = Sequences(4)
    sequences.create()
    with pytest.raises(InputError):
        sequences.batch(tokens, ["last"] * len(tokens))
    assert sequences.length(0) == 0


@pytest.mark.parametrize("call", ["fork", "free", "length", "table"])
def test_unknown_sequence_is_named(call):
    sequences = Sequences(1)
    sequences.free(sequences.create())
    with pytest.raises(InputError, match="no sequence 0"):
        getattr(sequences, call)(0)


@pytest.mark.parametrize(("call", "number"), [("append", -1), ("truncate", -1), ("truncate", 4)])
def test_impossible_length_is_refused(call, number):
    sequences = Sequences(1)
    sequences.append(sequences.create(), 3)
    with pytest.raises(InputError, match="sequence 0"):
        getattr(sequences, call)(0, number)


@given(st.lists(st.integers(0, 40)), st.integers(1, 20))
def test_steps_cover_all_runs_in_order_and_are_full_but_the_last(lengths, limit):
    runs = [[(index, p) for p in range(length)] for index, length in enumerate(lengths)]
    steps = list(split_steps(runs, limit))
    sizes = [sum(stop - start for _, start, stop in step) for step in steps]
    assert all(size == limit for size in sizes[:-1])
    assert all(0 < size <= limit for size in sizes)
    assert [(i, p) for step in steps for i, a, b in step for p in range(a, b)] == [token for run in runs for token in run]
