"""Attention over the block cache on every instruction set: head sizes, shared keys and score expressions against float64."""

from functools import cache

import numpy as np
import pytest
import torch

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.score import functor, narrow
from llmc.conformance.forms import CACHE_BLOCKS, Runner, relative_error
from llmc.conformance.scores import BIAS, EXPRESSIONS, HEADS, SOFTCAP, WINDOW
from llmc.errors import UnsupportedError
from llmc.ir import ops
from llmc.ir.score import CAUSAL, SCORE, K, Q, apply, const
from llmc.ir.weights import Stored
from tests.backends.cpu.programs import program

VOCAB, TOKENS = 90, 84
SIZES = [8, 24, 40, 64, 80, 96, 128, 256, 4, 5]
GROUPS = [1, 2, 3, 6]
CASES = {name: (HEADS, GROUPS[i % 4], SIZES[i % 10], SIZES[(3 * i + i // 2) % 10], *EXPRESSIONS[name])
         for i, name in enumerate(EXPRESSIONS)}  # fmt: skip
CASES["causal-64"] = (9, 3, 64, 64, SCORE, CAUSAL, False)
CASES["many-queries-to-a-head"] = (37, 1, 16, 24, SCORE, WINDOW, True)
ROUNDED = {"int8": (6, 2, 24, 40, SCORE, WINDOW, True), "bfloat16": (6, 2, 20, 64, SOFTCAP, CAUSAL, False)}
"""By what keys and values are rounded to on their way into the cache."""
TARGETS = ("avx512", "avx2", "portable")
CHOSEN = {
    **{target: [*list(CASES)[i::3], *ROUNDED] for i, target in enumerate(TARGETS)},
    **{f"{target}-all": [*CASES, *ROUNDED] for target in TARGETS},
}
"""By target: a third of the cases, and all in slow runs."""


@cache
def made(target):
    """One attention a case, of keys and queries as the ids say."""

    def build(e, ids):
        def random(*shape):
            return e.op(ops.reshape, e.op(ops.embedding, ids, e.weight(Stored(torch.randn(VOCAB, shape[0] * shape[1])), "t")),
                        shape=shape)  # fmt: skip

        def attend(name, heads, groups, size, width, score, admits, sunk):
            sinks = e.weight(Stored(torch.randn(heads)), "sinks") if sunk else None
            q, k, v = random(heads, size), random(groups, size), random(groups, width)
            if name in ROUNDED:
                k, v = (e.op(ops.round_rows, x, to=name) for x in (k, v))
            return e.op(ops.attention, q, k, v, sinks, scale=size**-0.5, score=score, admits=admits)

        return tuple(attend(name, *{**CASES, **ROUNDED}[name]) for name in CHOSEN[target])

    return program(build, names=tuple(CHOSEN[target]))


@cache
def executable(target):
    try:
        return CpuBackend().for_target(target.removesuffix("-all")).lower(made(target))
    except UnsupportedError as error:
        pytest.skip(str(error))


IDS = np.random.default_rng(3).permutation(VOCAB)[:TOKENS].tolist()


@cache
def exact(target):
    module = made(target).as_module().double()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            return {name: values.numpy() for name, values in module(torch.tensor(IDS)).items()}
    finally:
        torch.set_default_dtype(before)


def stepped(target, sizes, threads=1, company=()):
    """All outputs of the sequence, `sizes` tokens a step (the last repeated), beside other sequences in the first one."""
    runner = Runner(executable(target).context(CACHE_BLOCKS, threads))
    sequence, others = runner.sequences.create(), [(runner.sequences.create(), ids) for ids in company]
    parts, at, sizes = [], 0, list(sizes)
    while at < TOKENS:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        work = [*others[:1], (sequence, IDS[at : at + size]), *others[1:]]
        batch = runner.sequences.batch(work, ["all"] * len(work))
        start = len(others[0][1]) if others else 0
        count, others = len(IDS[at : at + size]), []
        parts.append({name: np.asarray(x)[start : start + count] for name, x in runner.context.step(batch).items()})
        at += count
    return {name: np.concatenate([part[name] for part in parts]) for name in CHOSEN[target]}


@pytest.mark.parametrize("target", [*TARGETS, *(pytest.param(f"{name}-all", marks=pytest.mark.slow) for name in TARGETS)])
def test_attention_is_exact_and_the_same_bits_in_every_form_of_step(target):
    prefill = stepped(target, [TOKENS], threads=2)
    for name, values in prefill.items():
        assert relative_error(values, exact(target)[name]) <= 1e-6, name
    company = ([5, 4, 3] * 12, [7])
    for form in ({"sizes": [1]}, {"sizes": [13], "threads": 2}, {"sizes": [33, 1, 29, 7], "company": company}):
        for name, values in stepped(target, **form).items():
            assert np.array_equal(values, prefill[name]), (name, form)


def test_positions_are_narrow_where_nothing_on_the_way_can_exceed_them():
    assert all(map(narrow, (CAUSAL, WINDOW, SOFTCAP, BIAS)))
    distance = apply("sub", Q, K)
    assert not narrow(apply("mul", distance, distance))
    assert not narrow(apply("where", CAUSAL, apply("add", Q, Q), K))
    assert not narrow(apply("lt", apply("add", K, const(2**31)), Q))
    assert "int64_t q" in functor("F", apply("mul", SCORE, apply("add", Q, Q)), CAUSAL)
    assert "int q" in functor("F", BIAS, WINDOW)
