"""The rules of a batch, one by one."""

import dataclasses

import numpy as np
import pytest

from llmc.errors import InputError
from llmc.runtime.contract import BLOCK, Batch, InputSpec

CACHE_BLOCKS = 8
INPUTS = {
    "input_ids": InputSpec("int64", (), 50),
    "position": InputSpec("int64", (), 100),
    "hidden": InputSpec("float32", (3,)),
    "kind": InputSpec("int64"),
}


def int32(*values):
    return np.array(values, np.int32)


def good(**changes) -> Batch:
    """Three runs: 2 tokens at the start, 3 over the edge of a block, 1 behind a shared block."""
    batch = Batch(
        inputs={
            "input_ids": np.arange(6) + 44,
            "hidden": np.full((6, 3), np.nan, np.float32),
            "kind": np.full(6, 2**40),
        },
        starts=int32(0, 2, 5, 6),
        first=int32(0, BLOCK - 1, BLOCK),
        tables=int32([5, -1], [2, 7], [4, 0]),
        out_rows=int32(5, 0, 0),
        copies=int32([2, 4], [7, 0], [2, 5]),
        sequences=(3, 1, 9),
    )
    return dataclasses.replace(batch, **changes)


def inputs(**changes):
    return {name: values for name, values in {**good().inputs, **changes}.items() if values is not None}


def test_batch_that_keeps_the_rules_is_taken():
    good().check(CACHE_BLOCKS, INPUTS)


def test_positions_and_runs_of_tokens_follow_from_the_runs():
    batch = good()
    assert batch.tokens == 6
    assert batch.position.tolist() == [0, 1, 31, 32, 33, 32]
    assert batch.run.tolist() == [0, 0, 1, 1, 1, 2]
    assert batch.lengths.tolist() == [2, 3, 1]
    assert {batch.position.dtype, batch.run.dtype, batch.lengths.dtype} == {np.dtype(np.int32)}


def test_arrays_that_were_written_to_are_checked_as_they_are_now():
    batch = good()
    batch.check(CACHE_BLOCKS, INPUTS)
    assert batch.position.tolist() == [0, 1, 31, 32, 33, 32]
    batch.starts[:] = 0, 1, 5, 6
    batch.first[:] = 0, BLOCK - 2, BLOCK
    batch.check(CACHE_BLOCKS, INPUTS)
    assert (batch.lengths.tolist(), batch.run.tolist()) == ([1, 4, 1], [0, 1, 1, 1, 1, 2])
    assert batch.position.tolist() == [0, 30, 31, 32, 33, 32]
    batch.first[1] = 2 * BLOCK - 2
    with pytest.raises(InputError, match="run 1 lacks cache blocks"):
        batch.check(CACHE_BLOCKS, INPUTS)


def test_no_rows_no_copies_and_blocks_beyond_the_end_are_allowed():
    good(out_rows=int32(), copies=np.zeros((0, 2), np.int32), tables=int32([5, 1], [2, 7], [4, 0])).check(8, INPUTS)


BROKEN = {
    "no-runs": (good(starts=int32(0), first=int32(), tables=np.zeros((0, 1), np.int32)), "at least one run"),
    "empty-run": (good(starts=int32(0, 2, 2, 6)), "a run at least one token"),
    "starts-fall": (good(starts=int32(0, 5, 2, 6)), "ascend"),
    "starts-wrap": (good(starts=int32(0, 2, 2**31 - 1, -(2**31))), "ascend"),
    "starts-late": (good(starts=int32(1, 2, 5, 6)), "begin with 0"),
    "starts-few": (good(starts=int32(0, 2, 6)), "S . 1 starts"),
    "tables-few": (good(tables=int32([5, -1])), "S tables"),
    "list": (good(starts=[0, 2, 5, 6]), "starts should be a int32 array of 1 dimensions, not list"),
    "float-rows": (good(out_rows=np.array([0.9])), "out_rows should be a int32 array .* not float64"),
    "int64-first": (good(first=np.array([0, 31, 32])), "first should be a int32 array"),
    "flat-tables": (good(tables=int32(5, 2, 4)), "tables should be a int32 array of 2 dimensions"),
    "copies-shape": (good(copies=int32([1, 2, 3])), "pairs"),
    "missing-input": (good(inputs=inputs(kind=None)), "lacks the input 'kind'"),
    "unknown-input": (good(inputs=inputs(other=np.zeros(6))), "an input 'other'; the program reads input_ids, hidden, kind"),
    "given-position": (good(inputs=inputs(position=np.zeros(6, np.int64))), "has an input 'position'"),
    "float-ids": (good(inputs=inputs(input_ids=np.full(6, 1.7))), "'input_ids' should be a int64 array .* not float64"),
    "short-input": (good(inputs=inputs(input_ids=np.zeros(5, np.int64))), r"'input_ids' should have shape \[6\], not \[5\]"),
    "narrow-input": (good(inputs=inputs(hidden=np.zeros((6, 2), np.float32))), r"'hidden' should have shape \[6, 3\]"),
    "id-too-large": (good(inputs=inputs(input_ids=np.arange(6) + 45)), "'input_ids' has 50; 0 to 49 is allowed"),
    "id-negative": (good(inputs=inputs(input_ids=np.arange(6) - 1)), "'input_ids' has -1"),
    "unlimited-negative": (good(inputs=inputs(kind=np.full(6, -(2**40)))), "'kind' has -1099511627776; 0 upwards"),
    "first-negative": (good(first=int32(-1, 31, 32)), "first has -1"),
    "position-too-large": (good(first=int32(0, 98, 32)), "position 100 is beyond the 100 positions"),
    "row-too-large": (good(out_rows=int32(6)), "out_rows has 6; 0 to 5"),
    "row-negative": (good(out_rows=int32(0, -1)), "out_rows has -1"),
    "table-short": (good(first=int32(0, 31, 64)), "run 2 lacks cache blocks: it needs 3"),
    "table-hole": (good(tables=int32([5, -1], [-1, 7], [4, 0])), "run 1 lacks cache blocks: it needs 2"),
    "block-too-large": (good(tables=int32([5, -1], [2, 8], [4, 0])), "tables has 8; -1 to 7"),
    "block-below": (good(tables=int32([5, -2], [2, 7], [4, 0])), "tables has -2"),
    "written-by-two": (good(tables=int32([5, -1], [2, 5], [4, 0])), "block 5 is written at one place"),
    "written-twice": (good(tables=int32([5, -1], [7, 7], [4, 0])), "block 7 is written"),
    "written-and-read": (good(tables=int32([5, -1], [2, 7], [5, 0])), "block 5 is written at one place and stands at another"),
    "own-past-written": (good(tables=int32([5, -1], [2, 7], [4, 4])), "block 4 is written"),
    "copy-too-large": (good(copies=int32([1, 8])), "copies has 8"),
    "copy-negative": (good(copies=int32([-1, 2])), "copies has -1"),
    "copied-to-twice": (good(copies=int32([1, 2], [3, 2])), r"copy \(1, 2\) meets another"),
    "copy-of-a-copy": (good(copies=int32([1, 2], [2, 3])), r"copy \(2, 3\) meets another"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_batch_that_breaks_a_rule_is_refused(name):
    batch, message = BROKEN[name]
    with pytest.raises(InputError, match=message):
        batch.check(CACHE_BLOCKS, INPUTS)


def test_block_may_be_copied_to_after_it_was_copied_from():
    good(copies=int32([2, 4], [6, 2])).check(CACHE_BLOCKS, INPUTS)


def test_program_that_reads_no_positions_has_no_limit_on_them():
    limits = {name: spec for name, spec in INPUTS.items() if name != "position"}
    tables = np.full((3, 4), -1, np.int32)
    tables[:, :2], tables[0] = good().tables, [6, 6, 6, 5]
    good(first=int32(3 * BLOCK + 10, 31, 32), tables=tables).check(8, limits)
