import pytest

from llmc.ir import ops
from llmc.ir.axes_report import axes
from llmc.ir.cost import cache_bytes_per_token
from llmc.ir.score import CAUSAL, SCORE, TRUE
from llmc.passes.fusion.rope_cache import FuseRopeCache
from llmc.passes.quantization.quantize_kv import QuantizeKV
from tests.passes.fusion.test_rope_cache import turned
from tests.passes.programs import program


def heads(m, count):
    return m.op(ops.reshape, m.linear(m.x, count * 8), shape=(count, 8))


def attend(m, q, k, v, admits=CAUSAL):
    out = m.op(ops.attention, q, k, v, scale=0.3, score=SCORE, admits=admits, causal=admits == CAUSAL)
    return m.op(ops.reshape, out, shape=(24,))


def plain(m):
    return attend(m, heads(m, 3), heads(m, 1), heads(m, 1))


@pytest.mark.parametrize(("to", "size"), [("int8", 2 * (8 + 4)), ("bfloat16", 2 * 16)])
def test_keys_and_values_are_rounded_and_the_cache_is_smaller(to, size, run_pass):
    after, ctx = run_pass(QuantizeKV(to=to), program(plain))
    (node,) = after.attentions
    assert [arg.target for arg in node.args[1:3]] == [ops.round_rows] * 2 and node.args[0].target is not ops.round_rows
    assert {arg.kwargs["to"] for arg in node.args[1:3]} == {to} and len(ctx.matches) == 1
    assert cache_bytes_per_token(after) == size == axes(after)["attentions"][0]["cache_bytes_per_token"]
    assert cache_bytes_per_token(after, element_bytes=4) == cache_bytes_per_token(program(plain)) == 2 * 8 * 4


@pytest.mark.parametrize("to", ["int8", "bfloat16"])
def test_numbers_stay_to_one_percent(to, run_pass, difference):
    before = program(plain)
    assert 1e-4 < difference(run_pass(QuantizeKV(to=to), before)[0], before) < 0.01


def test_attentions_that_share_keys_share_rounded_ones(run_pass):
    def twice(m):
        k, v = heads(m, 1), heads(m, 1)
        return m.op(ops.add, attend(m, heads(m, 3), k, v), attend(m, heads(m, 3), k, v))

    after, ctx = run_pass(QuantizeKV(), program(twice))
    assert len(after.find("round_rows")) == 2 and len(ctx.matches) == 2 and len(after.attentions) == 2


def test_keys_are_turned_before_they_are_rounded(run_pass):
    before, _ = run_pass(QuantizeKV(), program(turned()))
    (node,) = before.attentions
    assert node.args[1].args[0].target is ops.rope
    fused, ctx = run_pass(QuantizeKV(), run_pass(FuseRopeCache(), program(turned()))[0])
    assert not fused.find("round_rows") and "before fuse-rope-cache" in ctx.refusals[0][1]


def test_what_is_rounded_and_what_has_no_cache_is_left_alone(run_pass):
    once, _ = run_pass(QuantizeKV(), program(plain))
    again, ctx = run_pass(QuantizeKV(to="bfloat16"), once)
    assert again is once and "rounded already" in ctx.refusals[0][1]
    whole = program(lambda m: attend(m, heads(m, 3), heads(m, 1), heads(m, 1), TRUE))
    after, ctx = run_pass(QuantizeKV(), whole)
    assert after is whole and "no cache" in ctx.refusals[0][1]
