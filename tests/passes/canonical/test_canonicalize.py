import pytest

from llmc.ir import ops
from llmc.ir.program import type_of
from llmc.ir.score import CAUSAL, SCORE, K, Q, apply, per_head
from llmc.passes.canonical.canonicalize import Canonicalize
from tests.passes.programs import program


def noisy(m):
    y = m.op(ops.mul, m.op(ops.reshape, m.op(ops.reshape, m.x, shape=(2, 12)), shape=(24,)), 1.0)
    a, b = m.op(ops.cos, y), m.op(ops.cos, m.op(ops.add, m.x, 0))
    m.op(ops.sin, y)  # read by nobody
    cube, half = m.op(ops.pow_, a, 3.0), m.op(ops.pow_, m.op(ops.abs_, b), 0.5)
    return m.op(ops.add, m.op(ops.add, cube, half), m.op(ops.add, half, cube))


def test_canonicalize_folds_shares_and_removes(run_pass):
    after, ctx = run_pass(Canonicalize(), program(noisy))
    names = [node.target.name for node in after.nodes]
    assert names.count("cos") == 1 and "sin" not in names and "pow" not in names and "reshape" not in names
    assert names.count("add") == 2 and "sqrt" in names
    assert ctx.matches


def test_canonicalize_keeps_the_numbers(run_pass, difference):
    before = program(noisy)
    assert difference(run_pass(Canonicalize(), before)[0], before) < 1e-6


def test_canonicalize_leaves_alone_what_differs(run_pass):
    def two(m):
        a, b = m.op(ops.mul, m.x, 2.0), m.op(ops.mul, m.x, 2.5)
        c, d = (m.op(ops.slice_, m.x, dim=1, start=s, stop=s + 12) for s in (0, 12))
        return m.op(ops.concat, m.op(ops.sub, a, b), m.op(ops.sub, b, a), m.op(ops.sub, c, d), dim=1)

    before = program(two)
    after, ctx = run_pass(Canonicalize(), before)
    assert after is before and not ctx.matches


def test_canonicalize_twice_changes_nothing(run_pass):
    once, _ = run_pass(Canonicalize(), program(noisy))
    twice, ctx = run_pass(Canonicalize(), once)
    assert twice is once and not ctx.matches


def slopes(*values):
    return apply("add", SCORE, apply("mul", per_head(values), apply("sub", K, Q)))


def two_slopes(m):
    heads = m.op(ops.reshape, m.x, shape=(2, 12))
    a, b = (m.op(ops.attention, heads, heads, heads, scale=0.3, score=slopes(*v), admits=CAUSAL) for v in ((1, 2), (0, 0)))
    return m.op(ops.reshape, m.op(ops.sub, a, b), shape=(24,))


def two_zeros(m):
    return m.op(ops.sub, m.op(ops.relu, m.op(ops.div, m.x, 0.0)), m.op(ops.relu, m.op(ops.div, m.x, -0.0)))


@pytest.mark.parametrize("make", [two_slopes, two_zeros])
def test_canonicalize_leaves_apart_what_differs_in_numbers_that_are_not_printed(make, run_pass):
    before = program(make)
    assert run_pass(Canonicalize(), before)[0] is before


def test_canonicalize_shares_a_list_and_a_tuple_of_dimensions(run_pass):
    def sums(m):
        x = m.op(ops.reshape, m.x, shape=[2, 12])
        return m.op(ops.add, m.op(ops.sum_, x, dims=[1], keepdim=False), m.op(ops.sum_, x, dims=(1,), keepdim=False))

    assert len(run_pass(Canonicalize(), program(sums))[0].find("sum")) == 1


def test_canonicalize_keeps_powers_whose_product_is_of_another_type(run_pass):
    def powers(m):
        position = m.op(ops.reshape, m.input("position"), shape=(1,))
        whole, real = m.op(ops.pow_, position, 2), m.op(ops.pow_, position, 2.0)
        assert type_of(whole).dtype == "int64" and type_of(real).dtype == "float32"
        return m.op(ops.add, m.op(ops.add, m.x, whole), real)

    after, _ = run_pass(Canonicalize(), program(powers))
    assert [node.args[1] for node in after.find("pow")] == [2.0] and len(after.find("mul")) == 1


def test_canonicalize_simplifies_arithmetic_on_inputs(run_pass, difference):
    def shifted(m):
        ids = m.op(ops.add, m.input("input_ids"), 0)
        return m.op(ops.embedding, m.op(ops.mul, ids, 1), m.weight(m.weights["w"], "table"))

    before = program(shifted)
    after, _ = run_pass(Canonicalize(), before)
    assert [node.target for node in after.nodes] == [ops.embedding] and difference(after, before) == 0
