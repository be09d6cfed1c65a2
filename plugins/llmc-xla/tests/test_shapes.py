"""XLA compiles a bounded number of programs, and a step's cache stays where it is."""

import numpy as np
import pytest
from llmc_xla.shapes import Shape, bound, capacity_for
from xla_cases import Runner, chunked, lowered, program_of, random_ids

from llmc.ir import ops
from llmc.ir.score import CAUSAL, SCORE


def attention(e, a, b):
    heads = [e.op(ops.reshape, x, shape=(3, 12)) for x in (a, b)]
    return e.op(ops.attention, heads[0], heads[1], heads[1], scale=0.3, score=SCORE, admits=CAUSAL)


@pytest.fixture
def executable():
    return lowered(program_of(attention))


def test_steps_of_many_sizes_compile_few_programs(executable):
    generator = np.random.default_rng(0)
    sizes = set()
    for _ in range(12):
        runner = Runner(executable)
        names = [runner.sequences.create() for _ in range(4)]
        for _ in range(6):
            lengths = generator.choice([0, 1, 1, 1, 2, 9, 30, 45], 4)
            work = [(n, random_ids(count)) for n, count in zip(names, lengths, strict=True) if count]
            if work:
                runner.step(work)
                sizes.add((tuple(sorted(lengths)), max(map(runner.sequences.length, names)) // 32))
    assert len(sizes) > 50
    assert len(executable.programs) <= 16 < bound(256, 16)


def test_shapes_of_all_steps_are_within_the_bound():
    from llmc.runtime.sequences import Sequences

    found = set()
    generator = np.random.default_rng(1)
    for _ in range(3000):
        count = int(generator.integers(1, 9))
        lengths = np.minimum(generator.geometric(1 / generator.choice([1, 2, 8, 30]), count), 250 // count)
        sequences = Sequences(400)
        work = [(sequences.create(), [1] * int(n)) for n in lengths]
        batch = sequences.batch(work, [str(generator.choice(["all", "last"]))] * count)
        shape = Shape.of(batch, 400)
        assert shape.tokens >= batch.tokens and shape.rows >= len(batch.out_rows)
        found.add(shape)
    assert 10 < len(found) <= bound(256, 8)


def test_decoding_compiles_one_program_until_the_table_grows(executable):
    chunked(executable, random_ids(128), 1)
    assert len(executable.programs) == 1
    chunked(executable, random_ids(129), 1)
    assert len(executable.programs) == 2


@pytest.mark.parametrize("blocks", [1, 16, 17, 64, 65, 100, 1000, 12345])
def test_capacity_wastes_at_most_a_quarter(blocks):
    assert blocks <= capacity_for(blocks) <= max(16, blocks + 15, blocks * 1.25)
    octave = {capacity_for(n) for n in range(1024, 2048)}
    assert len(octave) <= 5


def test_step_leaves_the_cache_in_the_same_memory(executable):
    runner = Runner(executable)
    sequence = runner.sequences.create()
    runner.step([(sequence, [1])])
    before = runner.context.cache[0][0]
    address = before.unsafe_buffer_pointer()
    runner.step([(sequence, [2])])
    assert before.is_deleted() and runner.context.cache[0][0].unsafe_buffer_pointer() == address
