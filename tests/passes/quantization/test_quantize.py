import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.errors import PipelineError
from llmc.ir import ops
from llmc.ir.weights import Stored
from llmc.passes.fusion.gate_up import FuseGateUp
from llmc.passes.quantization.quantize import Quantize
from llmc.passes.quantization.rounding import round_rows
from tests.passes.programs import VOCAB, program


def feed_forward(m):
    hidden = m.op(ops.silu, m.linear(m.x, 96, "up"))
    return m.linear(hidden, 30, "down")


def test_quantize_makes_weights_int8_and_rounds_their_inputs(run_pass):
    before = program(feed_forward)
    after, ctx = run_pass(Quantize(), before)
    assert {str(after.weight(n.args[1]).format) for n in after.find("linear")} == {"int8"}
    assert all(n.kwargs["activations"] == "int8" for n in after.find("linear")) and len(ctx.matches) == 2
    assert after.weight_bytes() < before.weight_bytes()


def test_quantize_keeps_the_numbers_to_a_percent_or_two(run_pass, difference):
    before = program(feed_forward)
    assert 1e-4 < difference(run_pass(Quantize(), before)[0], before) < 0.02


def test_quantize_leaves_alone_what_is_skipped_and_all_that_is_no_linear(run_pass):
    before = program(feed_forward)
    after, ctx = run_pass(Quantize(skip=("down*",)), before)
    formats = {n.args[1].target: str(after.weight(n.args[1]).format) for n in after.find("linear")}
    assert formats == {"up": "int8", "down": "f32"} and "skipped" in ctx.refusals[0][1]
    assert str(after.weight(after.find("embedding")[0].args[1]).format) == "f32"


def test_quantize_notes_a_table_shared_with_the_embedding(run_pass):
    def tied(m):
        return m.op(ops.linear, m.x, m.x.args[1])

    after, ctx = run_pass(Quantize(), program(tied))
    assert "is also the table" in ctx.notes[0] and len(after.weights) == 1


def test_quantize_twice_leaves_alone_what_is_done(run_pass):
    once, _ = run_pass(Quantize(), program(feed_forward))
    again, ctx = run_pass(Quantize(), once)
    assert again is once and "already int8" in ctx.refusals[0][1]


@pytest.mark.parametrize("options", [{"bits": 3}, {"bit": 8}, {"skip": 5}])
def test_quantize_refuses_options_it_does_not_know(options):
    with pytest.raises(PipelineError, match="quantize"):
        Quantize(**options)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 70), st.integers(0, 2**31), st.floats(1e-6, 1e6))
def test_round_rows_is_off_by_at_most_half_a_step(rows, columns, seed, scale):
    weights = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * scale
    weights[0] = 0
    parts = round_rows(weights)
    assert parts["values"].dtype == torch.int8 and parts["values"].abs().max() <= 127
    back = parts["values"].float() * parts["scale"][:, None]
    assert torch.all((back - weights).abs() <= parts["scale"][:, None] * 0.5001)
    assert torch.equal(back[0], torch.zeros(columns))


def test_quantized_rows_do_not_depend_on_how_they_are_read(run_pass):
    after, _ = run_pass(Quantize(), program(feed_forward))
    weight = after.weights["up"]
    whole, part = weight.parts(), weight.parts(5, 17)
    assert all(torch.equal(whole[name][5:17], part[name]) for name in whole)


def test_stored_weight_counts_its_bytes():
    assert Stored(torch.zeros(VOCAB, 3)).bytes == VOCAB * 12


def test_quantize_keeps_the_weight_as_it_is_for_readers_of_other_kinds(run_pass):
    def both(m):
        weight = m.random(24, 24)
        rows = m.op(ops.mul, m.op(ops.reshape, m.x, shape=(1, 24)), weight)
        return m.op(ops.add, m.op(ops.linear, m.x, weight), m.op(ops.sum_, rows, dims=(2,), keepdim=False))

    before = program(both)
    after, ctx = run_pass(Quantize(), before)
    (linear,), (product,) = after.find("linear"), after.find("mul")
    assert str(after.weight(linear.args[1]).format) == "int8" and str(after.weight(product.args[1]).format) == "f32"
    assert "also read by mul" in ctx.notes[0]


@pytest.mark.parametrize("pattern", ["gate*", "up_proj.weight"])
def test_skip_finds_weights_within_merged_ones(pattern, run_pass):
    def gate_up(m):
        gate, up = (m.linear(m.x, 96, f"{name}_proj.weight") for name in ("gate", "up"))
        return m.linear(m.op(ops.gated, gate, up, activation="silu"), 30, "down")

    fused, _ = run_pass(FuseGateUp(), program(gate_up))
    after, ctx = run_pass(Quantize(skip=(pattern,)), fused)
    formats = {str(node.args[1].target): str(after.weight(node.args[1]).format) for node in after.find("linear")}
    assert formats == {"gate_proj.weight+up_proj": "f32", "down": "int8"} and "is skipped" in ctx.refusals[0][1]


def test_skip_that_matches_no_weight_is_an_error_with_names_that_are_near(run_pass):
    with pytest.raises(PipelineError, match=r"'donw\.\*' matches no weight; there are down"):
        run_pass(Quantize(skip=("donw.*",)), program(feed_forward))
