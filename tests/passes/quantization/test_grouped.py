"""Rounding to four bits in groups."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.errors import PipelineError
from llmc.ir.formats import GROUPS, MIDDLE, Integer, unpack_nibbles
from llmc.passes.quantization import grouped
from llmc.passes.quantization.grouped import coarse_groups, round_groups

FOUR_BITS = [Integer(4, group, zero_point) for group in GROUPS for zero_point in (False, True)]


def error(rows, form, parts=None):
    """The largest error of each group in parts of its step."""
    parts = round_groups(rows, form) if parts is None else parts
    off = (form.dequantize(parts, rows.shape) - rows).abs()
    off = torch.nn.functional.pad(off, (0, -rows.shape[1] % form.group)).unflatten(1, (-1, form.group)).amax(-1)
    return off / parts["scale"].float().abs().clamp(min=1e-30)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(FOUR_BITS), st.integers(1, 5), st.integers(1, 300), st.integers(0, 2**31), st.floats(1e-4, 1e4))
def test_components_are_those_of_the_format_and_no_worse_than_without_a_search(form, rows, columns, seed, size):
    weights = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size
    parts = round_groups(weights, form)
    described = {name: (str(part.dtype).removeprefix("torch."), tuple(part.shape)) for name, part in parts.items()}
    assert described == form.components((rows, columns))
    codes = unpack_nibbles(parts["values"])[:, columns:]
    assert torch.all(codes == (parts["zero"][:, -1:] if form.zero_point else MIDDLE))
    found = (form.dequantize(parts, weights.shape) - weights).norm()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouped, "TRIED", (1.0,))
        assert found <= (form.dequantize(round_groups(weights, form), weights.shape) - weights).norm() + 1e-3 * weights.norm()


@pytest.mark.parametrize("form", FOUR_BITS, ids=str)
def test_error_of_even_numbers_is_at_most_about_a_step(form):
    torch.manual_seed(0)
    assert error(torch.rand(7, 259) * 2 - 1, form).max() <= 1.3  # half a step, and what is clipped


@pytest.mark.parametrize("form", FOUR_BITS, ids=str)
def test_rows_are_rounded_alike_in_any_company(form, monkeypatch):
    torch.manual_seed(1)
    weights = torch.randn(23, 200)
    whole = round_groups(weights, form)
    monkeypatch.setattr(grouped, "CHUNK_ELEMENTS", 700)
    for start, stop in ((0, 1), (5, 18), (22, 23), (0, 23)):
        part = round_groups(weights[start:stop], form)
        assert all(torch.equal(whole[name][start:stop], part[name]) for name in whole)


@pytest.mark.parametrize("form", [Integer(4, 32), Integer(4, 32, True)], ids=str)
def test_zeros_stay_zeros_and_a_single_number_is_hit(form):
    weights = torch.zeros(2, 64)
    weights[0, 40] = -3.0
    back = form.dequantize(round_groups(weights, form), weights.shape)
    assert torch.allclose(back, weights, rtol=1e-3) and torch.equal(back == 0, weights == 0)


def test_zero_point_halves_the_error_of_numbers_of_one_sign():
    torch.manual_seed(2)
    weights = torch.rand(16, 128)
    plain, shifted = Integer(4, 32), Integer(4, 32, True)
    off = [(form.dequantize(round_groups(weights, form), weights.shape) - weights).norm() for form in (plain, shifted)]
    assert off[1] < 0.6 * off[0]


@pytest.mark.parametrize("number", [1e7, float("inf"), float("nan")])
def test_weights_beyond_float16_scales_are_refused(number):
    weights = torch.ones(3, 64)
    weights[1, 7] = number
    with pytest.raises(PipelineError, match="float16"):
        round_groups(weights, Integer(4, 32))


def test_tiny_groups_are_counted_and_keep_a_scale():
    weights = torch.ones(3, 64)
    weights[0, :32], weights[1, :32], weights[2] = 1e-9, 1e-6, 0
    parts = round_groups(weights, Integer(4, 32))
    assert coarse_groups(parts["scale"]) == (2, 4)
    assert (parts["scale"] == 0).tolist() == [[False, False], [False, False], [True, True]]
