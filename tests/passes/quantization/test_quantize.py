import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.errors import ArtifactError, PipelineError
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


@pytest.mark.parametrize("options", [
    {"bits": 3}, {"bit": 8}, {"skip": 5}, {"group_size": 32}, {"bits": 8, "zero_point": True}, {"bits": 4, "group_size": 48},
    {"activations": "int4"},
])  # fmt: skip
def test_quantize_refuses_options_it_does_not_know(options):
    with pytest.raises(PipelineError, match="quantize"):
        Quantize(**options)


def test_rows_that_are_nearly_zero_are_rounded_to_zeros():
    """127 over their largest magnitude is beyond float32."""
    rows = torch.tensor([[1e-38, 0.0, -2e-39], [4e-37, 0.0, -1e-37], [0.0, 0.0, 0.0]])
    expected = [[0, 0, 0], [127, 0, -32], [0, 0, 0]]
    assert round_rows(rows)["values"].tolist() == expected
    assert (ops.round_rows(rows, to="int8") != 0).tolist() == [[bool(n) for n in row] for row in expected]


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


def formats_of(program):
    return {str(n.args[1].target): str(program.weight(n.args[1]).format) for n in program.nodes if n.target in READERS}


READERS = (ops.linear, ops.embedding)


@pytest.mark.parametrize(("options", "form"), [
    ({}, "int4g32"), ({"group_size": 64}, "int4g64"), ({"group_size": 128, "zero_point": True}, "int4g128z"),
])  # fmt: skip
@pytest.mark.parametrize("activations", ["int8", "float32"])
def test_four_bits_keep_the_numbers_to_a_seventh(options, form, activations, run_pass, difference):
    before = program(feed_forward)
    after, ctx = run_pass(Quantize(bits=4, activations=activations, **options), before)
    assert formats_of(after) == {"w": "f32", "up": form, "down": form} and len(ctx.matches) == 2
    assert {node.kwargs["activations"] for node in after.find("linear")} == {activations}
    assert 1e-3 < difference(after, before) < 0.15


def test_tables_are_quantized_where_asked_for(run_pass, difference):
    before = program(feed_forward)
    after, ctx = run_pass(Quantize(bits=4, embeddings=True), before)
    assert set(formats_of(after).values()) == {"int4g32"} and len(ctx.matches) == 3 and not ctx.notes
    assert difference(after, before) < 0.2


def test_head_in_other_bits_than_the_body_takes_two_of_them(run_pass):
    first, ctx = run_pass(Quantize(only=("down",)), program(feed_forward))
    assert [why for _, why in ctx.refusals] == ["'up' is not among what the options name"]
    both, ctx = run_pass(Quantize(bits=4, embeddings=True), first)
    assert formats_of(both) == {"w": "int4g32", "up": "int4g32", "down": "int8"} and "already int8" in ctx.refusals[0][1]


def test_only_that_matches_no_weight_is_an_error(run_pass):
    with pytest.raises(PipelineError, match=r"option 'only': 'head' matches no weight"):
        run_pass(Quantize(only=("head",)), program(feed_forward))


def test_weight_that_float16_scales_cannot_hold_stays_and_is_told(run_pass):
    def huge(m):
        big = m.op(ops.linear, m.x, m.weight(Stored(torch.randn(30, 24) * 1e7), "big"))
        small = m.op(ops.linear, m.x, m.weight(Stored(torch.randn(30, 24) * 1e-8), "small"))
        return m.op(ops.add, m.op(ops.add, big, small), m.linear(m.x, 30, "fine"))

    after, ctx = run_pass(Quantize(bits=4), program(huge))
    assert formats_of(after) == {"w": "f32", "big": "f32", "small": "f32", "fine": "int4g32"}
    big, small = (why for _, why in ctx.refusals)
    assert "'big': weights of up to" in big and "beyond what scales in float16 reach" in big and "30 of 30 groups" in small


def test_weights_are_rounded_once_and_kept_in_a_file_without_a_name(run_pass, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    after, _ = run_pass(Quantize(bits=4), program(feed_forward))
    assert after.weights["up"].parts()["values"] is not after.weights["up"].base and not list(tmp_path.iterdir())
    assert torch.equal(after.weights["up"].evaluate(), after.weights["up"].base.evaluate())


def test_no_room_for_the_file_is_told_with_the_folder(run_pass, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(ArtifactError, match=r"absent: cannot keep weights there for now.*set TMPDIR"):
        run_pass(Quantize(bits=4), program(feed_forward))
