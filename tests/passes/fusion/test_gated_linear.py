import pytest

from llmc.ir import ops
from llmc.ir.decompose import decompose
from llmc.ir.program import origin_of
from llmc.ir.types import Origin
from llmc.passes.fusion.gated_linear import FuseGatedLinear
from llmc.passes.fusion.rounding import FuseRounding
from llmc.passes.quantization.quantize import Quantize
from tests.passes.programs import WIDTH, program


def halves(m, x, swapped=False):
    whole = m.op(ops.linear, x, m.random(80, WIDTH), m.random(80), activations="int8")
    parts = [m.op(ops.slice_, whole, dim=1, start=start, stop=start + 40) for start in (0, 40)]
    return whole, parts[::-1] if swapped else parts


def gated(m, x, swapped=False):
    return m.op(ops.gated, *halves(m, x, swapped)[1], activation="gelu_tanh")


def test_gates_are_computed_with_their_products_and_no_bit_changes(run_pass, difference):
    before = program(lambda m: m.linear(gated(m, m.x), 8))
    after, ctx = run_pass(FuseGatedLinear(), before)
    (node,) = after.find("gated_linear")
    assert node.kwargs == {"activation": "gelu_tanh", "activations": "int8"} and len(ctx.matches) == 1
    assert [n.target.name for n in after.nodes] == ["embedding", "gated_linear", "linear"]
    assert difference(after, before) == 0
    assert origin_of(node).passes[-1] == "fuse-gated-linear"
    assert [n.target.name for n in decompose(after).nodes] == [n.target.name for n in before.nodes]


def test_a_norm_that_they_read_is_still_rounded_where_it_is_made(run_pass, difference):
    before = program(lambda m: gated(m, m.op(ops.rms_norm, m.x, m.random(WIDTH), eps=1e-5)))
    after, _ = run_pass(FuseRounding(), run_pass(FuseGatedLinear(), before)[0])
    assert [n.target.name for n in after.nodes] == ["embedding", "rounded_rms_norm", "gated_linear"]
    assert difference(after, before) == 0
    assert [n.target.name for n in decompose(after).nodes] == [n.target.name for n in before.nodes]


def test_origins_of_the_product_and_of_what_is_made_of_it_stay(run_pass):
    before = program(lambda m: gated(m, m.x))
    for node, module in zip(before.nodes[1:], ("gate_proj", "gate_proj", "up_proj", "act_fn"), strict=True):
        node.meta["origin"] = Origin(f"mlp.{module}", "", (f"moved-{module}",))
    after, ctx = run_pass(FuseGatedLinear(), before)
    origin = origin_of(after.find("gated_linear")[0])
    assert origin == Origin("mlp", "", ("moved-gate_proj", "moved-act_fn", "fuse-gated-linear"))
    assert ctx.matches == [Origin("mlp", "", ("moved-gate_proj", "moved-act_fn"))]


def test_what_is_quantized_later_is_quantized_all_the_same(run_pass):
    before = program(lambda m: gated(m, m.x))
    after, ctx = run_pass(Quantize(bits=8), run_pass(FuseGatedLinear(), before)[0])
    (node,) = after.find("gated_linear")
    assert len(ctx.matches) == 1 and str(after.weights[str(node.args[1].target)].format) == "int8"


def read_besides(m):
    whole, parts = halves(m, m.x)
    return m.op(ops.concat, whole, m.op(ops.gated, *parts, activation="silu"), dim=1)


def half_read_besides(m):
    _, (gate, up) = halves(m, m.x)
    return m.op(ops.add, gate, m.op(ops.gated, gate, up, activation="silu"))


def of_two(m):
    return m.op(ops.gated, m.linear(m.x, 40), m.linear(m.x, 40), activation="silu")


def with_itself(m):
    _, (gate, _) = halves(m, m.x)
    return m.op(ops.gated, gate, gate, activation="silu")


@pytest.mark.parametrize("make", [read_besides, half_read_besides, of_two, with_itself, lambda m: gated(m, m.x, swapped=True)])
def test_gates_of_anything_else_are_left_alone_and_said_why(make, run_pass):
    before = program(make)
    after, ctx = run_pass(FuseGatedLinear(), before)
    assert after is before and "no halves of one linear" in ctx.refusals[0][1]
