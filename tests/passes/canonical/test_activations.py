import math

import pytest

from llmc.ir import ops
from llmc.passes.canonical.activations import RaiseActivations
from llmc.passes.canonical.gated import RaiseGated
from tests.passes.programs import WIDTH, program


def silu(m):
    return m.op(ops.mul, m.x, m.op(ops.sigmoid, m.x))


def gelu_tanh(m, cubic=0.044715):
    cube = m.op(ops.mul, m.op(ops.mul, m.x, m.x), m.x)
    inner = m.op(ops.mul, m.op(ops.add, m.x, m.op(ops.mul, cube, cubic)), math.sqrt(2 / math.pi))
    return m.op(ops.mul, m.op(ops.mul, m.x, 0.5), m.op(ops.add, m.op(ops.tanh, inner), 1.0))


def gelu(m):
    inner = m.op(ops.erf, m.op(ops.div, m.x, math.sqrt(2)))
    return m.op(ops.mul, m.op(ops.mul, m.x, m.op(ops.add, inner, 1.0)), 0.5)


CASES = {"silu": silu, "gelu": gelu, "gelu-tanh": gelu_tanh}


@pytest.mark.parametrize("name", CASES)
def test_raise_activations_makes_one_op_and_keeps_the_numbers(name, run_pass, difference):
    before = program(CASES[name])
    after, _ = run_pass(RaiseActivations(), before)
    assert [n.target.name for n in after.nodes] == ["embedding", name.split("-")[0]]
    assert difference(after, before) < 1e-6


def test_raise_activations_leaves_alone_other_constants(run_pass):
    before = program(lambda m: gelu_tanh(m, cubic=0.05))
    after, ctx = run_pass(RaiseActivations(), before)
    assert after is before and "0.05" in ctx.refusals[0][1]


def test_raise_gated_makes_one_op_and_keeps_the_numbers(run_pass, difference):
    before = program(lambda m: m.op(ops.mul, m.linear(m.x, 40), m.op(ops.silu, m.linear(m.x, 40))))
    after, _ = run_pass(RaiseGated(), before)
    assert [n.target.name for n in after.nodes] == ["embedding", "linear", "linear", "gated"]
    assert difference(after, before) < 1e-6


def test_raise_gated_leaves_alone_a_gate_that_broadcasts(run_pass):
    def one_gate(m):
        return m.op(ops.mul, m.op(ops.silu, m.linear(m.x, 1)), m.linear(m.x, WIDTH))

    before = program(one_gate)
    after, ctx = run_pass(RaiseGated(), before)
    assert after is before and ctx.refusals
