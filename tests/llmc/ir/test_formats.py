"""How numbers are stored: packing, rows, JSON."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.errors import VerificationError
from llmc.ir import formats
from llmc.ir.formats import GROUPS, INT4, MIDDLE, Dense, Integer, pack_nibbles, stored_bytes, unpack_nibbles
from llmc.ir.tensor_file import write_weights
from llmc.ir.weights import Concatenated, Encoded, Loaded, Sliced, Stored

FOUR_BITS = [Integer(4, group, zero_point) for group in GROUPS for zero_point in (False, True)]
sizes = st.tuples(st.integers(1, 6), st.integers(1, 300))


def components(form, rows, columns, seed):
    """Any codes, scales and zero points."""
    torch.manual_seed(seed)
    count = -(-columns // form.group)
    codes = torch.randint(0, 16, (rows, count * form.group), dtype=torch.uint8)
    zero = torch.randint(0, 16, (rows, count), dtype=torch.uint8) if form.zero_point else torch.full((rows, count), MIDDLE)
    codes[:, columns:] = zero[:, -1:]
    return codes, torch.randn(rows, count).half(), zero


def weight_of(form, rows, columns, seed):
    """A weight of these components, whichever of its rows are read, and the numbers they stand for."""
    codes, scale, zero = components(form, rows, columns, seed)

    def encode(which):
        index = which[:, 0].long()
        parts = {"values": pack_nibbles(codes[index]), "scale": scale[index]}
        return {**parts, "zero": zero[index]} if form.zero_point else parts

    numbered = torch.arange(rows, dtype=torch.float32)[:, None].expand(rows, columns)
    numbers = [
        [(int(codes[i, k]) - int(zero[i, k // form.group])) * float(scale[i, k // form.group]) for k in range(columns)]
        for i in range(rows)
    ]
    return Encoded(Stored(numbered), form, encode), torch.tensor(numbers, dtype=torch.float32)


@given(st.integers(0, 5), st.integers(0, 70), st.integers(0, 2**31))
def test_nibbles_are_what_was_packed(rows, pairs, seed):
    codes = torch.randint(0, 16, (rows, 2 * pairs), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    packed = pack_nibbles(codes)
    assert packed.shape == (rows, pairs) and torch.equal(unpack_nibbles(packed), codes)


def test_first_of_two_codes_is_in_the_low_bits():
    assert pack_nibbles(torch.tensor([[3, 12, 15, 0]], dtype=torch.uint8)).tolist() == [[3 + 16 * 12, 15]]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(FOUR_BITS), sizes, st.integers(0, 2**31))
def test_four_bits_stand_for_code_less_zero_times_scale_for_any_number_of_columns(form, size, seed):
    weight, numbers = weight_of(form, *size, seed)
    assert torch.equal(weight.evaluate(), numbers) and weight.evaluate().dtype == torch.float32
    parts = weight.parts()
    described = {name: (str(part.dtype).removeprefix("torch."), tuple(part.shape)) for name, part in parts.items()}
    assert described == form.components(size)
    assert weight.bytes == stored_bytes(form, size) == sum(part.nbytes for part in parts.values())


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(FOUR_BITS), sizes, st.data())
def test_rows_of_four_bits_are_cut_and_joined(form, size, data):
    weight, numbers = weight_of(form, *size, 1)
    start = data.draw(st.integers(0, size[0] - 1))
    stop = data.draw(st.integers(start + 1, size[0]))
    merged = Concatenated((Sliced(weight, start, stop), weight))
    expected = torch.cat((numbers[start:stop], numbers))
    assert torch.equal(merged.evaluate(), expected)
    middle = data.draw(st.integers(0, len(expected) - 1))
    assert torch.equal(torch.cat((merged.evaluate(0, middle), merged.evaluate(middle))), expected)


@pytest.mark.parametrize("form", FOUR_BITS, ids=str)
def test_four_bits_on_disk_are_read_back(form, tmp_path):
    weight, numbers = weight_of(form, 5, 77, 2)
    path = tmp_path / "w.safetensors"
    write_weights({"w": weight}, path)
    read = Loaded(path, {part: f"w:{part}" for part in form.components(weight.shape)}, weight.shape, form)
    assert torch.equal(read.evaluate(), numbers) and torch.equal(read.evaluate(2, 4), numbers[2:4])


def test_formats_have_names_and_survive_json():
    every = [Dense("bfloat16"), Integer(8), *FOUR_BITS]
    assert tuple(map(str, FOUR_BITS)) == INT4 and str(Integer(4, 64, True)) == "int4g64z" and str(Integer(8)) == "int8"
    assert [formats.from_json(formats.to_json(form)) for form in every] == every and formats.to_json(Integer(4, 32)) == GOOD


GOOD = {"kind": "integer", "bits": 4, "group": 32, "zero_point": False}


@pytest.mark.parametrize("data", [
    None, "int4", {}, {"kind": "integer", "bits": 8}, {"kind": "dense", "dtype": "int8"},
    {"kind": "dense", "dtype": ["float32"]}, {**GOOD, "kind": "dense"}, {**GOOD, "more": 1},
    {**GOOD, "bits": 8}, {**GOOD, "bits": 3}, {**GOOD, "bits": True}, {**GOOD, "group": 48}, {**GOOD, "group": 32.0},
    {**GOOD, "group": None}, {**GOOD, "zero_point": 1},
])  # fmt: skip
def test_json_that_describes_no_format_is_refused(data):
    with pytest.raises(VerificationError):
        formats.from_json(data)


def test_group_format_of_a_vector_is_refused():
    with pytest.raises(VerificationError, match=r"int4g32 is for matrices, not for a weight of shape \[7\]"):
        stored_bytes(Integer(4, 32), (7,))
