import pytest
import torch

from llmc.ir import ops
from llmc.ir.score import CAUSAL, SCORE
from llmc.ir.weights import Stored
from llmc.passes.fusion.gate_up import FuseGateUp
from llmc.passes.fusion.qkv import FuseQKV
from tests.passes.programs import program


def attention(m, q, k, v):
    parts = [m.op(ops.reshape, x, shape=(x.meta["type"].width // 8, 8)) for x in (q, k, v)]
    out = m.op(ops.attention, *parts, scale=0.3, score=SCORE, admits=CAUSAL)
    return m.op(ops.reshape, out, shape=(out.meta["type"].width,))


def qkv(m):
    return attention(m, m.linear(m.x, 32), m.linear(m.x, 16, "k"), m.linear(m.x, 16, "v"))


def gate_up(m):
    return m.op(ops.gated, m.linear(m.x, 40, "gate"), m.linear(m.x, 40, "up"), activation="silu")


def with_some_biases(m):
    q = m.op(ops.linear, m.x, m.random(32, 24), m.random(32))
    return attention(m, q, m.linear(m.x, 16, "k"), m.linear(m.x, 16, "v"))


CASES = {"qkv": (FuseQKV, qkv, 64), "biases": (FuseQKV, with_some_biases, 64), "gate-up": (FuseGateUp, gate_up, 80)}


@pytest.mark.parametrize("name", CASES)
def test_fusion_leaves_one_linear_whose_weight_is_all_of_them(name, run_pass):
    item, make, rows = CASES[name]
    after, ctx = run_pass(item(), program(make))
    (linear,) = after.find("linear")
    assert linear.meta["type"].fixed == (rows,) and len(ctx.matches) == 1
    assert len(after.find("slice")) == (2 if name == "gate-up" else 3)


@pytest.mark.parametrize("name", CASES)
def test_fusion_keeps_the_numbers(name, run_pass, difference):
    item, make, _ = CASES[name]
    before = program(make)
    assert difference(run_pass(item(), before)[0], before) < 1e-6


def test_fusion_copies_no_weight(run_pass):
    before = program(qkv)
    after, _ = run_pass(FuseQKV(), before)
    assert after.weight_bytes() == before.weight_bytes()


@pytest.mark.parametrize("name", ["qkv", "gate-up"])
def test_fusion_leaves_alone_linears_that_read_different_values(name, run_pass):
    def make(m):
        other = m.op(ops.neg, m.x)
        if name == "qkv":
            return attention(m, m.linear(m.x, 32), m.linear(other, 16), m.linear(m.x, 16))
        return m.op(ops.gated, m.linear(m.x, 40), m.linear(other, 40), activation="silu")

    before = program(make)
    after, ctx = run_pass(CASES[name][0](), before)
    assert after is before and "different values" in ctx.refusals[0][1]


def test_fusion_leaves_alone_weights_of_different_formats(run_pass):
    def make(m):
        half = m.weight(Stored(torch.randn(40, 24).bfloat16()), "half")
        return m.op(ops.gated, m.op(ops.linear, m.x, half), m.linear(m.x, 40), activation="silu")

    before = program(make)
    after, ctx = run_pass(FuseGateUp(), before)
    assert after is before and "bf16" in ctx.refusals[0][1]


def test_qkv_leaves_alone_projections_that_are_one_already(run_pass):
    def make(m):
        whole = m.linear(m.x, 64)
        return attention(m, *(m.op(ops.slice_, whole, dim=1, start=a, stop=b) for a, b in ((0, 32), (32, 48), (48, 64))))

    before = program(make)
    assert run_pass(FuseQKV(), before)[0] is before


def layers(m, names):
    """A gated feed-forward after another, the weights of each named by a pair."""
    x = m.x
    for pair in names:
        for name in pair:
            if name not in m.weights:
                m.random(24, 24, name=name)
        gate, up = (m.op(ops.linear, x, m.named_weight(name)) for name in pair)
        x = m.op(ops.gated, gate, up, activation="silu")
    return x


def test_fusion_of_layers_that_share_weights_makes_one_merged_weight(run_pass, difference):
    before = program(lambda m: layers(m, [("gate", "up")] * 3))
    after, ctx = run_pass(FuseGateUp(), before)
    assert len({node.args[1] for node in after.find("linear")}) == 1 and len(after.find("linear")) == len(ctx.matches) == 3
    assert after.weight_bytes() == before.weight_bytes() and difference(after, before) < 1e-6


@pytest.mark.parametrize("names", [[("gate", "up"), ("gate", "up2")], [("gate", "up"), ("up", "gate")]])
def test_fusion_leaves_alone_weights_that_others_read_as_well(names, run_pass):
    before = program(lambda m: layers(m, names))
    after, ctx = run_pass(FuseGateUp(), before)
    assert after is before and "is read elsewhere too" in ctx.refusals[0][1]


def test_fusion_merges_projections_of_two_attentions_once(run_pass, difference):
    def make(m):
        q, k, v = m.linear(m.x, 32), m.linear(m.x, 16, "k"), m.linear(m.x, 16, "v")
        return m.op(ops.sub, attention(m, q, k, v), m.op(ops.mul, attention(m, q, k, v), 0.5))

    before = program(make)
    after, ctx = run_pass(FuseQKV(), before)
    assert len(after.find("linear")) == len(ctx.matches) == 1 and difference(after, before) < 1e-6
