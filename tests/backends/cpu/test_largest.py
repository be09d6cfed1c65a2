"""Where the largest number of a row is: what NumPy says, for any share of it that a thread looks at."""

import numpy as np
import pytest
import torch

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.eager.backend import EagerBackend
from llmc.conformance.forms import CACHE_BLOCKS, Runner
from llmc.errors import InputError
from llmc.ir import ops
from llmc.ir.weights import Stored
from llmc.runtime.contract import largest
from tests.backends.cpu.programs import program

ROWS = 200
INF, NAN = float("inf"), float("nan")


def table(width):
    """Rows with equal largest numbers, infinities and NaN, both zeros, at any place."""
    random = np.random.default_rng(width)
    values = random.integers(-3, 3, (ROWS, width)).astype(np.float32)
    values[:20] = random.normal(size=(20, width)) - 5
    values[20:40] = -INF
    values[30:40, -1] = 1.0
    values[40:60] = random.choice([-0.0, 0.0, -1.0], (20, width))
    for row in range(60, 120):
        values[row, random.integers(width)] = random.choice([NAN, -NAN, INF, -INF])
    values[120:140] = NAN
    return values


@pytest.mark.parametrize("width", [1, 15, 16, 17, 64, 1000])
def test_largest_is_the_one_of_numpy_at_any_number_of_threads(width):
    values = table(width)
    made = program(lambda e, ids: e.op(ops.embedding, ids, e.weight(Stored(torch.from_numpy(values)), "table")))
    executable = CpuBackend().lower(made)
    expected = largest(values)
    assert (expected[20:30] == -1).all() and (expected[30:40] == width - 1).all() and (expected[120:140] == -1).all()
    for threads in (1, 2, 3, 4):
        runner = Runner(executable.context(CACHE_BLOCKS, threads))
        for ids in (list(range(ROWS)), [41], [7, 150]):
            batch = runner.sequences.batch([(runner.sequences.create(), ids)], ["all"])
            assert np.array_equal(runner.context.step_largest(batch, "logits"), expected[ids]), (threads, ids)


@pytest.mark.parametrize("output", ["choice", "pairs", "absent"])
@pytest.mark.parametrize("backend", [CpuBackend, EagerBackend])
def test_outputs_that_have_no_largest_number_are_refused(backend, output):
    def build(e, ids):
        values = e.op(ops.embedding, ids, e.weight(Stored(torch.randn(ROWS, 6)), "table"))
        return ids, e.op(ops.reshape, values, shape=(2, 3))

    runner = Runner(backend().lower(program(build, names=("choice", "pairs"))).context(CACHE_BLOCKS, 1))
    batch = runner.sequences.batch([(runner.sequences.create(), [1, 2])], ["all"])
    with pytest.raises(InputError, match=f"'{output}' is no output in float32 with entries of one dimension"):
        runner.context.step_largest(batch, output)
