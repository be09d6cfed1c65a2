import pytest
import torch

from llmc.ir import ops
from llmc.ir.decompose import decompose
from llmc.passes.fusion.residual_norm import FuseResidualNorm
from llmc.passes.fusion.rounding import FuseRounding
from tests.passes.programs import WIDTH, program


def product(m, x, size=WIDTH, activations="int8"):
    return m.op(ops.linear, x, m.random(size, int(x.meta["type"].shape[-1])), activations=activations)


def norm(m, x, kind=ops.rms_norm):
    return m.op(kind, x, m.random(WIDTH), eps=1e-5)


def other(m):
    return m.op(ops.sin, m.x)


MAKERS = {
    "rms_norm": lambda m: norm(m, m.x),
    "layer_norm": lambda m: norm(m, m.x, ops.layer_norm),
    "gated": lambda m: m.op(ops.gated, m.x, other(m), activation="silu"),
    "silu": lambda m: m.op(ops.silu, m.x),
    "relu": lambda m: m.op(ops.relu, m.x),
    "gelu": lambda m: m.op(ops.gelu, m.x, approximate="tanh"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_rows_are_rounded_where_they_are_made_and_no_bit_changes(name, run_pass, difference):
    before = program(lambda m: product(m, MAKERS[name](m)))
    after, ctx = run_pass(FuseRounding(), before)
    (node,) = after.find(f"rounded_{name}")
    assert node.kwargs["to"] == "int8" and len(ctx.matches) == 1 and not after.find(name)
    assert difference(after, before) == 0
    assert [node.target.name for node in decompose(after).nodes] == [node.target.name for node in before.nodes]


def test_products_that_read_one_norm_share_one_rounding(run_pass, difference):
    def make(m):
        x = norm(m, m.x)
        return m.op(ops.add, product(m, x), product(m, x))

    before = program(make)
    after, ctx = run_pass(FuseRounding(), before)
    assert len(after.find("rounded_rms_norm")) == len(ctx.matches) == 1 and difference(after, before) == 0


def residual(m):
    total = m.op(ops.add, m.x, other(m))
    return m.op(ops.add, total, product(m, norm(m, total)))


def test_of_a_sum_and_its_norm_the_norm_alone_is_rounded(run_pass, difference):
    before = program(residual)
    fused, _ = run_pass(FuseResidualNorm(), before)
    after, ctx = run_pass(FuseRounding(), fused)
    assert len(after.find("rounded_add_rms_norm")) == len(ctx.matches) == 1 and difference(after, before) == 0
    assert run_pass(FuseRounding(), after)[0] is after


def read_besides(m):
    x = norm(m, m.x)
    return m.op(ops.add, x, product(m, x))


def rounded_twice(m):
    x = norm(m, m.x)
    return m.op(ops.add, product(m, x), product(m, x, activations="float32"))


LEFT_ALONE = {
    "read-besides": (read_besides, "'add' reads it as it is"),
    "rounded-in-two-ways": (rounded_twice, "in different ways"),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_rows_that_somebody_reads_as_they_are_are_left_alone_and_said_why(name, run_pass):
    make, reason = LEFT_ALONE[name]
    before = program(make)
    after, ctx = run_pass(FuseRounding(), before)
    assert after is before and reason in ctx.refusals[0][1]


def test_products_in_float_are_no_reason_to_round(run_pass):
    before = program(lambda m: product(m, norm(m, m.x), activations="float32"))
    after, ctx = run_pass(FuseRounding(), before)
    assert after is before and not ctx.refusals


def test_rounding_what_is_rounded_changes_no_bit():
    """For every significand of the largest magnitude, and so for all rows whose scale is no denormal number."""
    largest = (torch.arange(2**23, dtype=torch.int32) + (127 << 23)).view(torch.float32)
    scale = largest / 127
    assert torch.equal(scale * 127 / 127, scale)
    rows = torch.randn(999, 50, generator=torch.Generator().manual_seed(3)) * torch.logspace(-30, 30, 999)[:, None]
    once = ops.round_rows(rows, to="int8")
    assert not torch.equal(once, rows) and torch.equal(ops.round_rows(once, to="int8"), once)


def test_rows_of_other_ops_are_no_matter_of_this_pass(run_pass):
    before = program(lambda m: product(m, other(m)))
    after, ctx = run_pass(FuseRounding(), before)
    assert after is before and not ctx.refusals
