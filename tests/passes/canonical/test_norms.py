import pytest

from llmc.ir import ops
from llmc.passes.canonical.norms import RaiseNorms
from tests.passes.programs import WIDTH, program


def mean_square(m, x, dims=(1,)):
    return m.op(ops.add, m.op(ops.mean, m.op(ops.mul, x, x), dims=dims, keepdim=True), 1e-5)


def rms(m):
    normal = m.op(ops.mul, m.x, m.op(ops.rsqrt, mean_square(m, m.x)))
    return m.op(ops.mul, m.random(WIDTH), normal)


def rms_divided(m):
    return m.op(ops.div, m.x, m.op(ops.sqrt, mean_square(m, m.x)))


def layer(m):
    centred = m.op(ops.sub, m.x, m.op(ops.mean, m.x, dims=(1,), keepdim=True))
    normal = m.op(ops.div, centred, m.op(ops.sqrt, mean_square(m, centred)))
    return m.op(ops.add, m.op(ops.mul, normal, m.random(WIDTH)), m.random(WIDTH))


CASES = {"rms": (rms, ["embedding", "rms_norm"]), "rms-divided": (rms_divided, ["embedding", "rms_norm"]),
         "layer": (layer, ["embedding", "layer_norm"])}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_raise_norms_makes_one_op_with_its_weights(name, run_pass):
    make, expected = CASES[name]
    after, _ = run_pass(RaiseNorms(), program(make))
    assert [node.target.name for node in after.nodes] == expected


@pytest.mark.parametrize("name", CASES)
def test_raise_norms_keeps_the_numbers(name, run_pass, difference):
    before = program(CASES[name][0])
    assert difference(run_pass(RaiseNorms(), before)[0], before) < 1e-6


def test_raise_norms_leaves_alone_a_norm_over_another_dimension(run_pass):
    def over_heads(m):
        x = m.op(ops.reshape, m.x, shape=(4, 6))
        normal = m.op(ops.mul, x, m.op(ops.rsqrt, mean_square(m, x, dims=(1,))))
        return m.op(ops.reshape, normal, shape=(24,))

    before = program(over_heads)
    after, ctx = run_pass(RaiseNorms(), before)
    assert after is before and "dimension 1" in ctx.refusals[0][1]


def test_raise_norms_leaves_alone_the_square_of_another_value(run_pass):
    def other(m):
        return m.op(ops.mul, m.x, m.op(ops.rsqrt, mean_square(m, m.op(ops.neg, m.x))))

    before = program(other)
    assert run_pass(RaiseNorms(), before)[0] is before


def test_raise_norms_leaves_a_weight_of_another_shape_outside(run_pass, difference):
    def scalar_weight(m):
        return m.op(ops.mul, m.op(ops.mul, m.x, m.op(ops.rsqrt, mean_square(m, m.x))), m.random(1))

    before = program(scalar_weight)
    after, ctx = run_pass(RaiseNorms(), before)
    assert [n.target.name for n in after.nodes] == ["embedding", "rms_norm", "mul"] and ctx.refusals
    assert difference(after, before) < 1e-6
