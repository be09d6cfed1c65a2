"""Attention over many chunks of positions: no bit depends on where steps end, on company, or on who computes a chunk."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.generate import Generator
from llmc.conformance.forms import CACHE_BLOCKS, Runner, relative_error
from llmc.conformance.scores import FIRST_AND_WINDOW, SOFTCAP, f
from llmc.ir import ops
from llmc.ir.score import CAUSAL, SCORE, K, Q
from llmc.ir.weights import Stored
from llmc.runtime.contract import BLOCK
from tests.backends.cpu.programs import program, table

CHUNK = 4 * BLOCK
"""Of kernels/attention.h."""
VOCAB, TOKENS, EXACT = 70, 4 * CHUNK + 9, 1e-6
WINDOW = f("logical_and", CAUSAL, f("lt", f("sub", Q, K), CHUNK + 11))
CASES = {
    "three-to-a-key": (9, 3, 64, 64, SCORE, CAUSAL, False, None, None),
    "window": (2, 2, 24, 40, SCORE, WINDOW, False, None, None),
    "softcap-sinks": (4, 1, 16, 24, SOFTCAP, CAUSAL, True, None, None),
    "first-and-window": (2, 1, 8, 16, SCORE, FIRST_AND_WINDOW, True, None, None),
    "int8": (9, 3, 64, 64, SCORE, CAUSAL, False, "int8", "int8"),
    "int8-odd-window": (2, 1, 20, 5, SCORE, WINDOW, True, "int8", "int8"),
    "bfloat16": (3, 1, 24, 40, SOFTCAP, CAUSAL, False, "bfloat16", "bfloat16"),
    "values-int8": (2, 2, 16, 16, SCORE, FIRST_AND_WINDOW, True, None, "int8"),
}
IDS = np.random.default_rng(1).integers(0, VOCAB, TOKENS).tolist()


@cache
def made():
    def build(e, ids):
        def random(heads, size):
            table = e.weight(Stored(1.5 * torch.randn(VOCAB, heads * size)), "table")
            return e.op(ops.reshape, e.op(ops.embedding, ids, table), shape=(heads, size))

        def rounded(x, to):
            return e.op(ops.round_rows, x, to=to) if to else x

        def attend(heads, groups, size, width, score, admits, sunk, keys, values):
            sinks = e.weight(Stored(torch.randn(heads)), "sinks") if sunk else None
            operands = (random(heads, size), rounded(random(groups, size), keys), rounded(random(groups, width), values), sinks)
            return e.op(ops.attention, *operands, scale=size**-0.5, score=score, admits=admits)

        return tuple(attend(*case) for case in CASES.values())

    return program(build, names=tuple(CASES))


@cache
def executable():
    return CpuBackend().lower(made())


def runner(threads):
    return Runner(executable().context(CACHE_BLOCKS, threads))


@cache
def prefilled():
    """All rows, of one step on one thread."""
    return stepped(1, [])


def stepped(threads, cuts):
    """All rows, of steps that end before the positions `cuts`."""
    run = runner(threads)
    sequence, bounds = run.sequences.create(), [0, *cuts, TOKENS]
    parts = [run.outputs([(sequence, IDS[i:j])]) for i, j in pairwise(bounds)]
    return {name: np.concatenate([part[name] for part in parts]) for name in CASES}


def same(values, start=0):
    for name, rows in values.items():
        assert np.array_equal(rows, prefilled()[name][start : start + len(rows)]), name


def test_attention_over_chunks_is_exact():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            exact = made().as_module().double()(torch.tensor(IDS))
    finally:
        torch.set_default_dtype(before)
    for name, values in prefilled().items():
        assert relative_error(values, exact[name].numpy()) <= EXACT, name


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_steps_that_end_at_every_edge_give_the_same_bits(threads):
    edges = {edge + near for edge in range(BLOCK, TOKENS, BLOCK) for near in (-1, 0, 1)}
    same(stepped(threads, sorted(edges)))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.sets(st.integers(1, TOKENS - 1), max_size=8))
def test_any_steps_give_the_same_bits(threads, cuts):
    same(stepped(threads, sorted(cuts)))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.lists(st.integers(1, TOKENS // 2), min_size=1, max_size=3), st.integers(1, 40))
def test_sequences_of_any_lengths_in_one_step_give_the_same_bits(threads, lengths, count):
    run = runner(threads)
    names = [run.sequences.create() for _ in lengths]
    for name, length in zip(names, lengths, strict=True):
        run.outputs([(name, IDS[:length])])
    rows = run.outputs([(name, IDS[length : length + count]) for name, length in zip(names, lengths, strict=True)])
    for i, length in enumerate(lengths):
        same({name: values[i * count : (i + 1) * count] for name, values in rows.items()}, length)


def test_threads_wait_between_two_attentions_over_the_same_keys():
    """Parts of the first may still be read where the second leaves its own."""

    def build(e, ids):
        q, k, v = (e.op(ops.reshape, table(e, ids, name, size=16), shape=(2, 8)) for name in "qkv")
        near, far = (e.op(ops.attention, q, k, v, scale=scale, score=SCORE, admits=CAUSAL) for scale in (0.4, 0.1))
        return e.op(ops.add, near, far)

    generator = Generator(program(build))
    first, second = (one for one in generator.prologue if "attention<" in one.text)
    assert second in generator.many.waits and second in generator.few.waits and first is not second
