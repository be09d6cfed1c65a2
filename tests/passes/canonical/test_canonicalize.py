from llmc.ir import ops
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
