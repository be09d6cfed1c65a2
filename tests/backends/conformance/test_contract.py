"""The step contract: what an executable tells, what a context takes, refuses and gives, beyond the numbers."""

import dataclasses

import numpy as np
import pytest
import torch

from llmc.conformance.forms import CACHE_BLOCKS, Runner, prefill, same_rows
from llmc.conformance.programs import POSITIONS, VOCAB, WIDTH, build, every_output, heads, weight
from llmc.errors import InputError
from llmc.ir import ops
from llmc.ir.score import CAUSAL, SCORE
from llmc.ir.types import TensorType
from llmc.ir.weights import Stored
from llmc.runtime.contract import BLOCK, InputSpec, largest
from llmc.runtime.sequences import Sequences


@pytest.fixture
def executable(subject):
    return subject.lower("every-output", every_output)


def batch_of(*lengths, rows):
    sequences = Sequences(8)
    work = [(sequences.create(), [(3 * i + 1) % VOCAB for i in range(length)]) for length in lengths]
    return dataclasses.replace(sequences.batch(work, ["all"] * len(work)), out_rows=np.array(rows, np.int32))


def arrays(outputs):
    return {name: np.asarray(values) for name, values in outputs.items()}


def test_backend_tells_its_name_version_and_targets(subject):
    assert subject.backend.name == subject.name
    assert isinstance(subject.backend.version(), str)
    targets = subject.backend.targets()
    assert targets and all(isinstance(target, str) and target for target in targets)


def test_executable_tells_inputs_outputs_and_bytes_of_a_block(executable):
    assert executable.inputs == {"input_ids": InputSpec("int64", (), VOCAB), "position": InputSpec("int64", (), POSITIONS)}
    assert executable.outputs == {
        "rows": TensorType("float32", ("R", 8)),
        "hidden": TensorType("float32", ("T", 2, 4)),
        "next": TensorType("int64", ("T",)),
        "above": TensorType("bool", ("T", 2, 4)),
        "above_rows": TensorType("bool", ("R", 2, 4)),
    }
    assert list(executable.outputs) == ["rows", "hidden", "next", "above", "above_rows"]
    assert isinstance(executable.row_exact, bool)
    stored = BLOCK * 2 * 8 * 4  # keys and values of 8 numbers in float32
    assert stored <= executable.block_bytes <= 8 * stored, "a block holds float32, perhaps filled up to what the hardware likes"


@pytest.mark.parametrize("rows", [[], [4], [6, 0, 6, 5, 4, 3, 2, 1, 0, 0]], ids=["none", "one", "more-than-tokens"])
def test_outputs_have_the_tokens_or_the_rows_asked_for(executable, rows):
    batch = batch_of(3, 4, rows=rows)
    found = arrays(executable.context(8, threads=2).step(batch))
    assert {name: values.dtype.name for name, values in found.items()} == {
        name: kind.dtype for name, kind in executable.outputs.items()
    }
    assert {name: values.shape for name, values in found.items()} == {
        "rows": (len(rows), 8), "hidden": (7, 2, 4), "next": (7,), "above": (7, 2, 4), "above_rows": (len(rows), 2, 4),
    }  # fmt: skip
    chosen = found["hidden"].reshape(7, 8)[rows]
    assert same_rows(executable, found["rows"], chosen)
    assert np.array_equal(found["above"], found["hidden"] > 0)
    assert np.array_equal(found["above_rows"], found["above"][rows])
    assert np.array_equal(found["next"], batch.inputs["input_ids"] + 1)
    assert np.abs(found["hidden"]).min() > 0


@pytest.mark.parametrize("rows", [[], [4], [6, 0, 6, 5, 4, 3, 2, 1, 0, 0]], ids=["none", "one", "more-than-tokens"])
def test_largest_numbers_are_where_the_entries_have_them(executable, rows):
    """And the step leaves the cache as one does that gives the entries."""
    contexts = [executable.context(8, threads=2) for _ in range(2)]
    sequences, names = Sequences(8), []
    for length in (3, 4, 1):
        names.append(sequences.create())
        work = [(name, [(5 * i + length) % VOCAB for i in range(length)]) for name in names]
        wanted = np.array(rows if length == 4 else rows[:1], np.int32) % 3
        batch = dataclasses.replace(sequences.batch(work, ["all"] * len(work)), out_rows=wanted)
        entries = arrays(contexts[0].step(batch))["rows"]
        places = contexts[1].step_largest(batch, "rows")
        assert places.dtype == np.int64 and places.shape == (len(batch.out_rows),)
        if executable.row_exact:
            assert np.array_equal(places, largest(entries))


BROKEN = {
    "no-tokens": {"starts": np.zeros(1, np.int32), "first": np.zeros(0, np.int32), "tables": np.zeros((0, 1), np.int32)},
    "id-beyond-the-table": {"inputs": {"input_ids": np.full(5, VOCAB)}},
    "negative-id": {"inputs": {"input_ids": np.full(5, -1)}},
    "float-ids": {"inputs": {"input_ids": np.full(5, 1.5)}},
    "no-input": {"inputs": {}},
    "unknown-input": {"inputs": {"input_ids": np.zeros(5, np.int64), "other": np.zeros(5, np.int64)}},
    "position-beyond-the-table": {"first": np.array([66], np.int32), "tables": np.array([[0, 1, 2]], np.int32)},
    "no-block": {"tables": np.array([[0, -1]], np.int32)},
    "block-outside": {"tables": np.array([[0, 64]], np.int32)},
    "float-rows": {"out_rows": np.array([0.9])},
    "row-outside": {"out_rows": np.array([5], np.int32)},
    "copy-outside": {"copies": np.array([[0, 64]], np.int32)},
}


@pytest.mark.parametrize("name", BROKEN)
def test_refused_step_changes_nothing(executable, name):
    ids = [(5 * i) % VOCAB for i in range(40)]
    runner = Runner(executable.context(CACHE_BLOCKS))
    sequence = runner.sequences.create()
    start = runner.step([(sequence, ids[:35])])
    batch = runner.sequences.batch([(sequence, ids[35:])], ["all"])
    with pytest.raises(InputError):
        runner.context.step(dataclasses.replace(batch, **{"copies": np.array([[1, 0]], np.int32), **BROKEN[name]}))
    runner.sequences.undo(batch)
    rows = np.concatenate([start, runner.step([(sequence, ids[35:])])])
    assert same_rows(executable, rows, prefill(executable.context(CACHE_BLOCKS), ids))


def test_closed_context_refuses_a_step(executable):
    context = executable.context(8)
    context.step(batch_of(3, rows=[0]))
    context.close()
    context.close()
    with pytest.raises(InputError, match="closed"):
        context.step(batch_of(3, rows=[0]))


@pytest.mark.parametrize(("blocks", "threads"), [(0, 1), (-1, 1), (1.5, 1), (4, 0), (4, -1), (4, 40000), (4, 1.5)])
def test_sizes_that_cannot_be_are_refused(executable, blocks, threads):
    with pytest.raises(InputError, match=r"cache_blocks|threads"):
        executable.context(blocks, threads)


def test_cache_that_does_not_fit_is_a_memory_error(executable):
    with pytest.raises(MemoryError):
        executable.context(2**50)


@pytest.mark.parametrize(("factor", "inside", "outside"), [(2, [0, VOCAB // 2], [1, VOCAB - 1]), (-1, [0, 0], [0, 3])])
def test_computed_index_outside_of_its_table_gives_nan_or_an_error(subject, factor, inside, outside):
    """Never a number: what stands beside the table in memory, or a row counted from its end."""

    def scaled(editor, a, b):
        index = editor.op(ops.mul, editor.input("input_ids"), factor)
        return editor.op(ops.embedding, index, weight(editor, VOCAB, 8))

    runner = Runner(subject.lower(("computed-index", factor), lambda: build(scaled)).context(CACHE_BLOCKS))
    assert np.isfinite(runner.step([(runner.sequences.create(), inside)])).all()
    try:
        rows = runner.step([(runner.sequences.create(), outside)])
    except Exception as error:  # whatever the library makes of it
        assert not isinstance(error, InputError)
    else:
        assert np.isnan(rows[1]).all() and np.isfinite(rows[0]).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["keys", "values"])
def test_later_token_that_is_no_number_reaches_no_earlier_one(subject, wrong, place):
    """In one step as token by token, and no other sequence of the step; its own row and later ones it does reach."""

    def attend(editor, a, b):
        table = torch.randn(VOCAB, WIDTH)
        table[-1] = wrong
        odd = editor.op(ops.embedding, editor.input("input_ids"), editor.weight(Stored(table), "odd"))
        k, v = (odd, b) if place == "keys" else (b, odd)
        split = [heads(editor, x) for x in (a, k, v)]
        return editor.op(ops.attention, *split, scale=0.3, score=SCORE, admits=CAUSAL)

    executable = subject.lower(("no-number", wrong, place), lambda: build(attend))
    before, after = [1, 2, 3], [4, 5]
    runner = Runner(executable.context(CACHE_BLOCKS))
    rows = runner.step([(runner.sequences.create(), [*before, VOCAB - 1, *after]), (runner.sequences.create(), before)])
    alone = prefill(executable.context(CACHE_BLOCKS), before)
    assert same_rows(executable, rows[:3], alone) and same_rows(executable, rows[6:], alone)
    if place == "values":
        assert not np.isfinite(rows[3:6]).any()


def test_arrays_need_not_be_contiguous_or_writable(executable):
    batch = batch_of(3, 4, rows=[2, 6])
    spread = {
        name: np.repeat(getattr(batch, name), 2, axis=-1)[..., ::2]
        for name in ("starts", "first", "tables", "out_rows", "copies")
    }
    ids = np.repeat(batch.inputs["input_ids"], 3)[::3]
    ids.setflags(write=False)
    found = arrays(executable.context(8).step(dataclasses.replace(batch, inputs={"input_ids": ids}, **spread)))
    expected = arrays(executable.context(8).step(batch))
    assert all(same_rows(executable, found[name], expected[name]) for name in expected)


def test_results_stay_as_they_are_when_the_context_goes_on(executable):
    context, batch = executable.context(8), batch_of(3, 4, rows=[2, 6])
    first = context.step(batch)
    kept = {name: np.array(values) for name, values in first.items()}
    context.step(dataclasses.replace(batch, inputs={"input_ids": np.zeros(7, np.int64)}))
    context.close()
    assert all(np.array_equal(np.asarray(first[name]), kept[name]) for name in kept)
