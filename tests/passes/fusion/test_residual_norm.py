import pytest

from llmc.ir import ops
from llmc.ir.decompose import decompose
from llmc.passes.fusion.residual_norm import FuseResidualNorm
from tests.passes.programs import WIDTH, program


def norm(m, x, kind=ops.rms_norm):
    weights = [m.random(WIDTH, name="gain") for _ in range(1 if kind is ops.rms_norm else 2)]
    return m.op(kind, x, *weights, eps=1e-5)


def residual(kind, norms=1):
    """A sum that a norm reads, and a later sum."""

    def make(m):
        total = m.op(ops.add, m.x, m.linear(m.x, WIDTH))
        for _ in range(norms):
            total = m.op(ops.add, total, m.linear(norm(m, total, kind), WIDTH))
        return total

    return make


@pytest.mark.parametrize(("kind", "fused"), [(ops.rms_norm, "add_rms_norm"), (ops.layer_norm, "add_layer_norm")])
def test_a_sum_and_its_norm_become_one_op_whose_halves_are_read(kind, fused, run_pass, difference):
    before = program(residual(kind, norms=2))
    after, ctx = run_pass(FuseResidualNorm(), before)
    assert len(after.find(fused)) == len(ctx.matches) == 2 and not after.find(kind.name)
    assert len(after.find("add")) == 1  # the last sum, which no norm reads
    assert len(after.find("slice")) == 4 and difference(after, before) == 0


def test_a_sum_that_nothing_else_reads_is_fused_too(run_pass, difference):
    before = program(lambda m: norm(m, m.op(ops.add, m.x, m.op(ops.exp, m.x))))
    after, _ = run_pass(FuseResidualNorm(), before)
    assert len(after.find("slice")) == 1 and difference(after, before) == 0


def test_what_was_fused_comes_apart_as_it_was(run_pass):
    before = program(residual(ops.rms_norm, norms=2))
    after, _ = run_pass(FuseResidualNorm(), before)
    names = [node.target.name for node in decompose(after).nodes]
    assert names == [node.target.name for node in before.nodes]


def test_fusing_again_changes_nothing(run_pass):
    after, _ = run_pass(FuseResidualNorm(), program(residual(ops.rms_norm)))
    again, ctx = run_pass(FuseResidualNorm(), after)
    assert again is after and not ctx.matches


def test_the_second_norm_of_a_sum_reads_the_half(run_pass, difference):
    def make(m):
        total = m.op(ops.add, m.x, m.op(ops.neg, m.op(ops.exp, m.x)))
        return m.op(ops.mul, norm(m, total), norm(m, total, ops.layer_norm))

    before = program(make)
    after, ctx = run_pass(FuseResidualNorm(), before)
    assert len(after.find("add_rms_norm")) == len(after.find("layer_norm")) == 1 and difference(after, before) == 0
    assert [reason for _, reason in ctx.refusals] == ["its sum is taken in by another norm"]


LEFT_ALONE = {
    "no-sum": (lambda m: norm(m, m.x), "it normalizes no sum"),
    "number": (lambda m: norm(m, m.op(ops.add, m.x, 1.0)), "the same for every token"),
    "weight": (lambda m: norm(m, m.op(ops.add, m.x, m.random(WIDTH))), "the same for every token"),
    "broadcast": (
        lambda m: m.op(ops.rms_norm, m.op(ops.add, m.x, m.op(ops.slice_, m.x, dim=1, start=0, stop=1)), eps=1e-5),
        "repeated to",
    ),
    "part": (
        lambda m: m.op(ops.rms_norm, m.op(ops.reshape, m.op(ops.add, m.x, m.x), shape=(2, WIDTH // 2)), eps=1e-5),
        "it normalizes no sum but what 'reshape",
    ),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_is_no_residual_is_left_alone_and_said_why(name, run_pass):
    make, reason = LEFT_ALONE[name]
    before = program(make)
    after, ctx = run_pass(FuseResidualNorm(), before)
    assert after is before and len(ctx.refusals) == 1 and reason in ctx.refusals[0][1]
