"""Programs over whole sequences: ragged batches without padding, nothing kept from step to step."""

import dataclasses

import numpy as np
import pytest

from llmc.conformance.forms import relative_error, same_rows
from llmc.conformance.programs import VOCAB, build, exact, some_ids
from llmc.conformance.whole import WHOLE, attend, together
from llmc.errors import InputError
from llmc.ir import ops
from llmc.ir.types import TensorType
from llmc.runtime.contract import Batch

TOLERANCE = 5e-6
PROMPTS = [some_ids(count, seed=count) for count in (39, 1, 64, 5, 33)]


def every_output():
    """A value of each token, of the rows asked for, and of each sequence."""
    editor = build(WHOLE["attention"]).edit()
    (hidden,) = editor.results
    editor.graph.erase_node(editor.graph.output_node())
    results = hidden, editor.op(ops.select_rows, hidden), editor.op(ops.pool, hidden, how="mean")
    editor.outputs = ("hidden", "rows", "pooled")
    editor.graph.output(results)
    return editor.finish()


@pytest.fixture
def executable(subject):
    return subject.lower("whole-outputs", every_output)


def batch_of(*lengths, rows=(0,)):
    ids = [np.array(some_ids(length, seed=length)) for length in lengths]
    return Batch.of_sequences({"input_ids": ids}, np.array(rows, np.int32))


@pytest.mark.parametrize("name", WHOLE)
def test_whole_sequences_agree_with_the_reference_in_any_company(subject, name):
    program = build(WHOLE[name])
    executable = subject.lower(("whole", name), lambda: program)
    rows = together(executable.context(1, threads=2), PROMPTS)
    again = together(executable.context(1, threads=1), PROMPTS[::-1])[::-1]
    for index, (ids, values, other) in enumerate(zip(PROMPTS, rows, again, strict=True)):
        assert relative_error(values, exact(program, ids)) <= TOLERANCE
        assert same_rows(executable, other, values)
        if executable.row_exact or index == 0:
            assert same_rows(executable, together(executable.context(1, threads=1), [ids])[0], values)


def test_executable_tells_that_it_reads_whole_sequences(executable):
    assert executable.whole_sequences and executable.block_bytes == 0
    assert executable.outputs == {
        "hidden": TensorType("float32", ("T", 66)),
        "rows": TensorType("float32", ("R", 66)),
        "pooled": TensorType("float32", ("S", 66)),
    }


@pytest.mark.parametrize("rows", [[], [4], [6, 0, 6, 5, 4, 3, 2, 1, 0, 0]], ids=["none", "one", "more-than-tokens"])
def test_outputs_have_the_tokens_the_rows_asked_for_and_the_sequences(executable, rows):
    found = {name: np.asarray(v) for name, v in executable.context(1, threads=2).step(batch_of(3, 4, rows=rows)).items()}
    assert {name: values.shape for name, values in found.items()} == {
        "hidden": (7, 66), "rows": (len(rows), 66), "pooled": (2, 66),
    }  # fmt: skip
    assert same_rows(executable, found["rows"], found["hidden"][rows])
    means = [found["hidden"][:3].mean(0), found["hidden"][3:].mean(0)]
    assert relative_error(found["pooled"], np.stack(means)) < 1e-6


BROKEN = {
    "later-start": {"first": np.array([0, 32], np.int32)},
    "tables": {"tables": np.zeros((2, 1), np.int32)},
    "copies": {"copies": np.array([[0, 0]], np.int32)},
    "id-beyond-the-table": {"inputs": {"input_ids": np.full(7, VOCAB)}},
}


@pytest.mark.parametrize("name", BROKEN)
def test_step_of_anything_but_whole_sequences_is_refused(executable, name):
    context, batch = executable.context(1), batch_of(3, 4)
    before = np.asarray(context.step(batch)["pooled"])
    with pytest.raises(InputError):
        context.step(dataclasses.replace(batch, **BROKEN[name]))
    assert np.array_equal(np.asarray(context.step(batch)["pooled"]), before)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_token_that_is_no_number_reaches_its_own_sequence_only(subject, wrong):
    def make(editor, a, b):
        b = editor.op(ops.where, editor.op(ops.eq, editor.op(ops.reshape, editor.input("input_ids"), shape=(1,)), 7), wrong, b)
        return editor.op(ops.pool, attend()(editor, a, b), how="sum")

    executable = subject.lower(("whole-no-number", wrong), lambda: build(make))
    clean = [[1, 2, 3], [4, 5]]
    first, odd, last = together(executable.context(1), [clean[0], [1, 7, 2], clean[1]])
    assert not np.isfinite(odd).any()
    for values, ids in ((first, clean[0]), (last, clean[1])):
        assert same_rows(executable, values, together(executable.context(1), [ids])[0])
        assert np.isfinite(values).all()
