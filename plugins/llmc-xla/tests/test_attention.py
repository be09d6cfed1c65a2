"""What attention over blocks does besides the numbers, which the conformance suite checks for every score expression."""

import jax
import numpy as np
import pytest
import torch
from llmc_xla import attention
from xla_cases import WIDTH, Runner, chunked, error, lowered, program_of, random_ids, reference

from llmc.ir import ops
from llmc.ir.score import CAUSAL, HEAD, SCORE, K, Q, apply, const
from llmc.ir.weights import Stored

DISTANCE = apply("sub", Q, K)
PER_HEAD = apply("logical_and", CAUSAL, apply("logical_or", apply("ne", HEAD, const(2)), apply("lt", DISTANCE, const(5))))
WHOLE_NUMBERS = apply("sub", SCORE, apply("div", DISTANCE, apply("add", Q, const(1))))


def attend(score=SCORE, admits=CAUSAL, groups=3):
    """Queries of 3 heads of 12, keys of `groups` heads, values of 8 numbers, sinks in bfloat16."""

    def make(e, a, b):
        heads = [e.op(ops.reshape, x, shape=(3, WIDTH // 3)) for x in (a, b)]
        k = e.op(ops.slice_, heads[1], dim=1, start=0, stop=groups)
        v = e.op(ops.slice_, k, dim=2, start=2, stop=10)
        sinks = e.weight(Stored(torch.randn(3).bfloat16()), "sinks")
        return e.op(ops.attention, heads[0], k, v, sinks, scale=0.3, score=score, admits=admits)

    return program_of(make)


@pytest.mark.parametrize("size", [1000, 1, 13, 32])
@pytest.mark.parametrize("what", [{}, {"groups": 1}, {"score": WHOLE_NUMBERS}, {"admits": PER_HEAD}])
def test_attention_over_several_chunks_agrees_with_the_reference(what, size):
    program, ids = attend(**what), random_ids(70)
    assert error(chunked(lowered(program), ids, size), reference(program, ids)) <= 1e-5


def test_chunks_that_take_turns_give_what_all_at_once_give(monkeypatch):
    program, ids = attend(), random_ids(200)
    expected = chunked(lowered(program), ids)
    monkeypatch.setattr(attention, "MOST_ELEMENTS", 3 * 32 * 256 * 3)  # three chunks, which does not divide eight
    assert error(chunked(lowered(program), ids), expected) <= 1e-6


def test_what_a_block_held_before_does_not_come_through():
    program, ids = attend(), random_ids(40)
    runner = Runner(lowered(program))
    context = runner.context
    context.cache = jax.tree.map(lambda array: jax.numpy.full_like(array, np.nan), context.cache)
    assert error(runner.step([(runner.sequences.create(), ids)]), reference(program, ids)) <= 1e-5
