"""Block tables against lists: what is read through the tables is what was written."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from llmc.errors import InputError
from llmc.runtime.contract import BLOCK, InputSpec
from llmc.runtime.sequences import Sequences, blocks_for, split_steps

CACHE_BLOCKS = 9
INPUTS = {"input_ids": InputSpec("int64")}
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

    @rule(chosen=st.lists(ids, min_size=1, max_size=4, unique=True), data=st.data())
    def undo(self, chosen, data):
        """A batch whose step was refused: whatever comes next, its copies are not lost, nor the blocks that it took."""
        counts = [data.draw(COUNTS) for _ in chosen]
        if self.needed(chosen, counts) <= self.free_blocks():
            batch = self.sequences.batch(list(zip(chosen, ([0] * n for n in counts), strict=True)), ["last"] * len(chosen))
            self.sequences.undo(batch)

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
        replace(batch).check(CACHE_BLOCKS, INPUTS)  # a copy, for which its maker does not vouch
        self.apply(batch.copies)
        block = batch.tables[batch.run, batch.position // BLOCK]
        self.cache[block, batch.position % BLOCK] = batch.inputs["input_ids"]
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
        sources, targets = copies.T
        assert not set(sources) & set(targets) and len(set(targets)) == len(targets)
        self.cache[targets] = self.cache[sources]

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


def test_copy_of_a_batch_is_checked_though_its_maker_vouched_for_the_first():
    sequences = Sequences(8)
    batch = sequences.batch([(sequences.create(), [1, 2])], ["all"])
    batch.check(8, INPUTS)
    copied = copy.deepcopy(batch)
    copied.tables[0, 0] = 10**6
    with pytest.raises(InputError, match="tables"):
        copied.check(8, INPUTS)


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
    assert sequences.take_copies().tolist() == [[1, 2]]
    assert sequences.take_copies().shape == (0, 2)


def test_copy_of_a_copy_is_taken_from_where_the_content_is():
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
    assert sequences.take_copies().tolist() == [[0, 2]]


def test_block_freed_before_it_was_copied_takes_the_place_of_the_copy():
    sequences = Sequences(2)
    first = sequences.create()
    sequences.append(first, 5)
    second = sequences.fork(first)
    sequences.append(second, 1)
    sequences.free(first)
    assert sequences.table(second).tolist() == [0]
    assert len(sequences.take_copies()) == 0
    sequences.append(second, BLOCK)  # the copy's block is free


def test_copies_never_go_in_a_circle():
    """Without the rule for freed blocks: 1 to 2, 0 to 1, 2 to 0, which no order of reads of the old content can do."""
    sequences = Sequences(3)
    a, b = sequences.create(), sequences.create()
    batch = sequences.batch([(a, [1]), (b, [2])], ["last", "last"])
    cache = {block: value for [block], value in zip(batch.tables.tolist(), "ab", strict=True)}

    def copied(sequence):
        other = sequences.fork(sequence)
        sequences.append(other, 1)
        sequences.truncate(other, 1)
        return other

    second = copied(b)
    sequences.free(b)
    first = copied(a)
    sequences.free(a)
    third = copied(second)
    for source, target in sequences.take_copies().tolist():
        cache[target] = cache[source]
    assert [cache[int(sequences.table(one)[0])] for one in (first, second, third)] == ["a", "b", "b"]


def test_last_of_the_sequences_sharing_a_block_needs_no_copy_in_the_same_batch():
    sequences = Sequences(2)
    first = sequences.create()
    sequences.append(first, 5)
    second = sequences.fork(first)
    batch = sequences.batch([(first, [1]), (second, [2])], ["last", "last"])
    assert batch.copies.tolist() == [[0, 1]]
    assert batch.tables.tolist() == [[1], [0]]


def test_cut_sequence_that_grows_again_copies_the_block_it_shares():
    sequences = Sequences(4)
    first = sequences.create()
    sequences.append(first, 2 * BLOCK)
    second = sequences.fork(first)
    sequences.truncate(second, BLOCK + 3)
    sequences.append(second, 1)
    assert sequences.take_copies().tolist() == [[1, 2]]


def test_appending_nothing_copies_nothing():
    sequences = Sequences(2)
    first = sequences.create()
    sequences.append(first, 1)
    sequences.append(sequences.fork(first), 0)
    assert len(sequences.take_copies()) == 0


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
    assert batch.sequences == (a, b, c)
    assert batch.run.tolist() == [0, 0, 1, 1, 1, 2]
    assert batch.position.tolist() == [0, 1, 5, 6, 7, 0]
    assert batch.out_rows.tolist() == [2, 3, 4, 5]
    arrays = (batch.starts, batch.first, batch.tables, batch.out_rows, batch.copies, batch.run, batch.position)
    assert {array.dtype for array in arrays} == {np.dtype(np.int32)}


def test_tables_of_a_batch_are_filled_up_with_minus_one():
    sequences = Sequences(4)
    a, b = sequences.create(), sequences.create()
    batch = sequences.batch([(a, [1]), (b, [2] * (2 * BLOCK + 1))], ["last", "none"])
    assert batch.tables.tolist() == [[0, -1, -1], [1, 2, 3]]


NO_IDS = [[], [1.7], [True], ["a"], [[1]], [[1], [1, 2]], [2**64]]


@pytest.mark.parametrize("tokens", [[], [(0, [1]), (0, [2])], [(0, [1]), (5, [1])], *[[(0, ids)] for ids in NO_IDS]])
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


def forked(length=5):
    """Sequences of one context, two of which share a block that is partly filled."""
    sequences = Sequences(4)
    first = sequences.create()
    sequences.batch([(first, [1] * length)], ["last"])
    return sequences, first, sequences.fork(first)


def test_batch_that_was_undone_gives_its_copies_to_the_next():
    sequences, _, second = forked()
    refused = sequences.batch([(second, [2] * BLOCK)], ["last"])
    assert len(refused.copies) == 1
    sequences.undo(refused)
    assert sequences.length(second) == 5
    again = sequences.batch([(second, [3])], ["last"])
    assert again.copies.tolist() == refused.copies.tolist()
    assert again.first.tolist() == [5]
    sequences.append(sequences.create(), 2 * BLOCK)  # what the refused batch took beyond its copy is free


def test_batch_can_be_undone_only_while_nothing_else_was_done():
    sequences, first, second = forked()
    other = Sequences(1)
    foreign = other.batch([(other.create(), [1])], ["last"])
    changes = [
        lambda: sequences.fork(first), lambda: sequences.append(first, 1), lambda: sequences.truncate(second, 1),
        lambda: sequences.free(second), sequences.take_copies, lambda: sequences.batch([(first, [1])], ["last"]),
    ]  # fmt: skip
    for change in changes:
        batch = sequences.batch([(first, [2])], ["last"])
        with pytest.raises(InputError, match="only the last batch"):
            sequences.undo(foreign)
        change()
        with pytest.raises(InputError, match="only the last batch"):
            sequences.undo(batch)
    last = sequences.batch([(first, [2])], ["last"])
    sequences.undo(last)
    with pytest.raises(InputError, match="only the last batch"):
        sequences.undo(last)
