import pytest

from llmc.ir import ops
from llmc.ir.cost import cache_bytes_per_token
from llmc.ir.decompose import decompose
from llmc.ir.score import CAUSAL, SCORE, TRUE
from llmc.passes.fusion.rope_cache import FuseRopeCache
from tests.passes.programs import program


def angles(m, pairs=4):
    turns = m.op(ops.mul, m.op(ops.reshape, m.op(ops.cast, m.input("position"), dtype="float32"), shape=(1,)), m.random(pairs))
    return m.op(ops.cos, turns), m.op(ops.sin, turns)


def heads(m, count=3):
    return m.op(ops.reshape, m.linear(m.x, count * 8), shape=(count, 8))


def attend(m, q, k, v, *sinks):
    out = m.op(ops.attention, q, k, v, *sinks, scale=0.3, score=SCORE, admits=CAUSAL)
    return m.op(ops.reshape, out, shape=(24,))


def turned(layout="halves", sinks=False):
    def make(m):
        cos, sin = angles(m)
        q, k = (m.op(ops.rope, heads(m, n), cos, sin, layout=layout) for n in (3, 1))
        return attend(m, q, k, heads(m, 1), *([m.random(3)] if sinks else []))

    return make


@pytest.mark.parametrize("layout", ["halves", "pairs"])
@pytest.mark.parametrize("sinks", [False, True])
def test_rope_and_attention_become_one_op(layout, sinks, run_pass, difference):
    before = program(turned(layout, sinks))
    after, ctx = run_pass(FuseRopeCache(), before)
    (node,) = after.find("rope_attention")
    assert node.kwargs["layout"] == layout and len(node.args) == 5 + sinks and len(ctx.matches) == 1
    assert not after.find("rope") and not after.find("attention") and difference(after, before) == 0
    assert len(after.attentions) == 1 and cache_bytes_per_token(after) == cache_bytes_per_token(before)
    assert sorted(n.target.name for n in decompose(after).nodes) == sorted(n.target.name for n in before.nodes)


def test_attention_over_whole_sequences_stays_that(run_pass, difference):
    def make(m):
        cos, sin = angles(m)
        q, k = (m.op(ops.rope, heads(m), cos, sin, layout="halves") for _ in range(2))
        out = m.op(ops.attention, q, k, heads(m), scale=0.3, score=SCORE, admits=TRUE, causal=False)
        return m.op(ops.reshape, out, shape=(24,))

    before = program(make)
    after, ctx = run_pass(FuseRopeCache(), before)
    assert after.whole_sequences and len(ctx.matches) == 1 and difference(after, before) == 0
    assert decompose(after).find("attention")[0].kwargs["causal"] is False


def read_by_two(m):
    cos, sin = angles(m)
    q, k = (m.op(ops.rope, heads(m, n), cos, sin, layout="halves") for n in (3, 1))
    v = heads(m, 1)
    return m.op(ops.add, attend(m, q, k, v), attend(m, m.op(ops.neg, q), k, v))


def turned_apart(m):
    q, k = (m.op(ops.rope, heads(m, n), *angles(m), layout="halves") for n in (3, 1))
    return attend(m, q, k, heads(m, 1))


def queries_alone(m):
    return attend(m, m.op(ops.rope, heads(m), *angles(m), layout="halves"), heads(m, 1), heads(m, 1))


def test_keys_that_two_attentions_share_are_left_alone_and_said_why(run_pass):
    before = program(read_by_two)
    after, ctx = run_pass(FuseRopeCache(), before)
    assert after is before and "are read elsewhere too" in ctx.refusals[0][1]


@pytest.mark.parametrize("make", [turned_apart, queries_alone])
def test_queries_and_keys_that_are_not_turned_alike_are_left_alone(make, run_pass):
    before = program(make)
    assert run_pass(FuseRopeCache(), before)[0] is before
