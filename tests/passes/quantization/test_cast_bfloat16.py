import torch

from llmc.ir import ops
from llmc.ir.weights import Stored
from llmc.passes.quantization.cast_bfloat16 import CastBfloat16
from llmc.passes.quantization.quantize import Quantize
from tests.passes.programs import program


def feed_forward(m):
    return m.linear(m.op(ops.silu, m.linear(m.x, 96, "up")), 30, "down")


def test_weights_and_tables_become_bfloat16_and_inputs_are_rounded(run_pass):
    before = program(feed_forward)
    after, ctx = run_pass(CastBfloat16(), before)
    assert {str(weight.format) for weight in after.weights.values()} == {"bf16"} and len(ctx.matches) == 3
    assert all(node.kwargs["activations"] == "bfloat16" for node in after.find("linear"))
    assert after.weight_bytes() * 2 == before.weight_bytes()


def test_cast_keeps_the_numbers_to_half_a_percent(run_pass, difference):
    before = program(feed_forward)
    assert 1e-4 < difference(run_pass(CastBfloat16(), before)[0], before) < 0.01


def test_cast_leaves_alone_what_is_quantized_and_what_others_read(run_pass):
    def both(m):
        weight = m.random(24, 24, name="both")
        rows = m.op(ops.mul, m.op(ops.reshape, m.x, shape=(1, 24)), weight)
        return m.op(ops.add, m.op(ops.linear, m.x, weight), m.op(ops.sum_, rows, dims=(2,), keepdim=False))

    after, ctx = run_pass(CastBfloat16(), program(both))
    assert str(after.weights["both"].format) == "f32" and "also read by mul" in ctx.refusals[0][1]
    quantized, _ = run_pass(Quantize(embeddings=True), program(feed_forward))
    again, ctx = run_pass(CastBfloat16(), quantized)
    assert again is quantized and len(ctx.refusals) == 3 and "already int8" in ctx.refusals[0][1]


def test_weights_that_are_bfloat16_already_are_not_made_again_and_nothing_is_left_for_a_second_cast(run_pass):
    def stored(m):
        return m.op(ops.linear, m.x, m.weight(Stored(torch.randn(30, 24).bfloat16()), "w"))

    before = program(stored)
    once, _ = run_pass(CastBfloat16(), before)
    [linear] = once.find("linear")
    assert once.weight(linear.args[1]) is before.weights[linear.args[1].target] and linear.kwargs["activations"] == "bfloat16"
    again, ctx = run_pass(CastBfloat16(), once)
    assert again is once and not ctx.matches
