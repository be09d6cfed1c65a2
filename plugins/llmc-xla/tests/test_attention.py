"""Attention under score expressions of every kind, in one step and in chunks, against the reference in float64."""

import jax
import numpy as np
import pytest
import torch
from llmc_xla import attention
from xla_cases import WIDTH, Runner, chunked, error, lowered, program_of, random_ids, reference

from llmc.ir import ops
from llmc.ir.score import CAUSAL, FUNCTIONS, HEAD, SCORE, K, Q, apply, const, per_head
from llmc.ir.weights import Stored

DISTANCE = apply("sub", Q, K)
WINDOW = apply("logical_and", CAUSAL, apply("lt", DISTANCE, const(5)))
SLOPES = per_head([0.5, 0.25, 0.125])
NEAR = apply("le", apply("abs", DISTANCE), const(3))
SCORES = {
    "softcap": apply("mul", apply("tanh", apply("div", SCORE, const(2.0))), const(2.0)),
    "bias": apply("add", SCORE, apply("mul", SLOPES, apply("neg", DISTANCE))),
    "where": apply("where", apply("eq", HEAD, const(1)), SCORE, apply("mul", SCORE, const(0.5))),
    "whole-numbers": apply("sub", SCORE, apply("div", DISTANCE, apply("add", Q, const(1)))),
    "log": apply("mul", SCORE, apply("log", apply("add", Q, const(2)))),
    "exp": apply("add", SCORE, apply("exp", apply("minimum", apply("sub", K, Q), const(0.5)))),
    "maximum": apply("maximum", SCORE, apply("where", NEAR, const(0.25), const(-1))),
}
ADMITS = {
    "window": WINDOW,
    "strict": apply("logical_and", CAUSAL, apply("logical_not", apply("gt", DISTANCE, const(7)))),
    "per-head": apply("logical_and", CAUSAL, apply("logical_or", apply("ne", HEAD, const(2)), NEAR)),
    "from-the-left": apply("ge", Q, K),
}


def attend(score=SCORE, admits=CAUSAL, groups=3, sinks=False):
    """Queries of 3 heads of 12, keys of `groups` heads, values of 8 numbers."""

    def make(e, a, b):
        heads = [e.op(ops.reshape, x, shape=(3, WIDTH // 3)) for x in (a, b)]
        k = e.op(ops.slice_, heads[1], dim=1, start=0, stop=groups)
        v = e.op(ops.slice_, k, dim=2, start=2, stop=10)
        sink = e.weight(Stored(torch.randn(3).bfloat16()), "sinks") if sinks else None
        return e.op(ops.attention, heads[0], k, v, sink, scale=0.3, score=score, admits=admits)

    return program_of(make)


PROGRAMS = {
    "plain": {},
    "grouped": {"groups": 1},
    "sinks": {"sinks": True},
    **{f"score-{name}": {"score": score} for name, score in SCORES.items()},
    **{f"admits-{name}": {"admits": admits} for name, admits in ADMITS.items()},
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_attention_agrees_with_the_reference(name):
    program = attend(**PROGRAMS[name])
    executable, ids = lowered(program), random_ids(70)
    expected = reference(program, ids)
    assert error(chunked(executable, ids), expected) <= 1e-5
    assert error(chunked(executable, ids, 13), expected) <= 1e-5


def test_cases_use_every_function_of_scores_but_those_of_the_masks():
    def kinds(expr):
        return {expr.kind}.union(*map(kinds, expr.args))

    used = set().union(*(kinds(expr) for expr in (*SCORES.values(), *ADMITS.values())))
    assert set(FUNCTIONS) <= used


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
