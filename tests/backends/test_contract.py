"""The step contract on each backend: what a context takes, refuses and gives, beyond the numbers."""

import dataclasses
import threading

import numpy as np
import pytest
import torch

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.eager import backend as eager
from llmc.errors import InputError
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.score import CAUSAL, SCORE
from llmc.ir.types import TensorType
from llmc.ir.weights import Stored
from llmc.runtime.contract import BLOCK, InputSpec
from llmc.runtime.sequences import Sequences
from tests.backends.forms import Runner, prefill

VOCAB, POSITIONS = 19, 70
BACKENDS = {"eager": eager.EagerBackend(), "cpu": CpuBackend()}


def segment():
    """Attention over embeddings; what comes of it for all tokens and for the rows asked for, in three dtypes."""
    torch.manual_seed(5)
    editor = Editor()
    table, turns = (editor.weight(Stored(torch.randn(rows, 8)), "w") for rows in (VOCAB, POSITIONS))
    ids = editor.input("input_ids")
    x = editor.op(ops.embedding, ids, table)
    x = editor.op(ops.add, x, editor.op(ops.embedding, editor.input("position"), turns))
    heads = editor.op(ops.reshape, x, shape=(2, 4))
    hidden = editor.op(ops.attention, heads, heads, heads, scale=0.5, score=SCORE, admits=CAUSAL)
    rows = editor.op(ops.reshape, editor.op(ops.select_rows, hidden), shape=(8,))
    editor.outputs = ("rows", "hidden", "next", "above", "above_rows")
    above = editor.op(ops.gt, hidden, 0.0)
    editor.graph.output((rows, hidden, editor.op(ops.add, ids, 1), above, editor.op(ops.select_rows, above)))
    return editor.finish()


@pytest.fixture(scope="module", params=BACKENDS)
def executable(request):
    return BACKENDS[request.param].lower(segment())


def batch_of(*lengths, rows):
    sequences = Sequences(8)
    work = [(sequences.create(), [(3 * i + 1) % VOCAB for i in range(length)]) for length in lengths]
    return dataclasses.replace(sequences.batch(work, ["all"] * len(work)), out_rows=np.array(rows, np.int32))


def test_executable_tells_inputs_outputs_bytes_of_a_block_and_that_rows_are_exact(executable):
    assert executable.inputs == {"input_ids": InputSpec("int64", (), VOCAB), "position": InputSpec("int64", (), POSITIONS)}
    assert executable.outputs == {
        "rows": TensorType("float32", ("R", 8)),
        "hidden": TensorType("float32", ("T", 2, 4)),
        "next": TensorType("int64", ("T",)),
        "above": TensorType("bool", ("T", 2, 4)),
        "above_rows": TensorType("bool", ("R", 2, 4)),
    }
    assert executable.block_bytes == BLOCK * 2 * 8 * 4
    assert executable.row_exact


@pytest.mark.parametrize("rows", [[], [4], [6, 0, 6, 5, 4, 3, 2, 1, 0, 0]], ids=["none", "one", "more-than-tokens"])
def test_outputs_have_the_tokens_or_the_rows_asked_for(executable, rows):
    batch = batch_of(3, 4, rows=rows)
    found = executable.context(8, threads=2).step(batch)
    assert {name: values.dtype.name for name, values in found.items()} == {
        name: kind.dtype for name, kind in executable.outputs.items()
    }
    assert {name: values.shape for name, values in found.items()} == {
        "rows": (len(rows), 8), "hidden": (7, 2, 4), "next": (7,), "above": (7, 2, 4), "above_rows": (len(rows), 2, 4),
    }  # fmt: skip
    assert np.array_equal(found["rows"], found["hidden"].reshape(7, 8)[rows])
    assert np.array_equal(found["above_rows"], found["hidden"][rows] > 0)
    assert np.array_equal(found["next"], batch.inputs["input_ids"] + 1)
    assert np.abs(found["hidden"]).min() > 0


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
    "copy-outside": {"copies": np.array([[0, 64]], np.int32)},
}


@pytest.mark.parametrize("name", BROKEN)
def test_refused_step_changes_nothing(executable, name):
    ids = [(5 * i) % VOCAB for i in range(40)]
    runner = Runner(executable.context(64))
    sequence = runner.sequences.create()
    start = runner.step([(sequence, ids[:35])])
    batch = runner.sequences.batch([(sequence, ids[35:])], ["all"])
    with pytest.raises(InputError):
        runner.context.step(dataclasses.replace(batch, **{"copies": np.array([[1, 0]], np.int32), **BROKEN[name]}))
    runner.sequences.undo(batch)
    rows = np.concatenate([start, runner.step([(sequence, ids[35:])])])
    assert np.array_equal(rows, prefill(executable.context(64), ids))


def test_fork_whose_step_was_refused_keeps_its_copy(executable):
    ids = [(5 * i) % VOCAB for i in range(12)]
    runner = Runner(executable.context(64))
    first = runner.sequences.create()
    runner.step([(first, ids[:9])])
    second = runner.sequences.fork(first)
    batch = runner.sequences.batch([(second, ids[9:])], ["all"])
    with pytest.raises(InputError):
        runner.context.step(dataclasses.replace(batch, inputs={"input_ids": np.full(3, VOCAB)}))
    runner.sequences.undo(batch)
    assert np.array_equal(runner.step([(second, ids[9:])]), prefill(executable.context(64), ids)[9:])


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


def test_arrays_need_not_be_contiguous(executable):
    batch = batch_of(3, 4, rows=[2, 6])
    spread = {
        name: np.repeat(getattr(batch, name), 2, axis=-1)[..., ::2]
        for name in ("starts", "first", "tables", "out_rows", "copies")
    }
    ids = np.repeat(batch.inputs["input_ids"], 3)[::3]
    ids.setflags(write=False)
    found = executable.context(8).step(dataclasses.replace(batch, inputs={"input_ids": ids}, **spread))
    expected = executable.context(8).step(batch)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_eager_steps_in_several_threads_leave_torch_its_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    entered, inside, left = (threading.Event() for _ in range(3))
    seen = []

    def first():
        with eager.single_thread():
            entered.set()
            inside.wait(0.3)
            seen.append(torch.get_num_threads())
        left.set()

    def second():
        entered.wait()
        with eager.single_thread():
            inside.set()
            left.wait()
            seen.append(torch.get_num_threads())

    try:
        run_together(first, second)
        run_together(lambda: seen.append(torch.get_num_threads()))  # a new thread has what was set last
        with eager.single_thread(), eager.single_thread():
            seen.append(torch.get_num_threads())
        assert [*seen, torch.get_num_threads()] == [1, 1, 2, 1, 2]
    finally:
        torch.set_num_threads(before)


def run_together(*bodies):
    """Each in a thread of its own."""
    threads = [threading.Thread(target=body) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
