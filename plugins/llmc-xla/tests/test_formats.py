"""Weights stay on the device as they are stored, and products read them so."""

import numpy as np
import pytest
import torch
from llmc_xla import formats
from llmc_xla.executable import semantics
from xla_cases import WIDTH, captured, chunked, error, library_model, lowered, program_of, random_ids, reference

from llmc.conformance.formats import stored
from llmc.ir import ops
from llmc.ir.spill import Spilled
from llmc.ir.weights import Stored


def int8(*shape):
    return stored("int8", *shape)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int64", "bool"])
def test_dense_weight_is_loaded_bit_for_bit(dtype, monkeypatch):
    monkeypatch.setattr(formats, "CHUNK_ELEMENTS", 12)  # two rows at a time, and one at the end
    values = (torch.randn(7, 5) * 9).to(getattr(torch, dtype))
    with semantics():
        found = formats.load(Stored(values))["values"]
    assert found.dtype.name == dtype
    assert np.array_equal(np.asarray(found), np.asarray(values.tolist()))


def test_weight_without_rows_is_loaded():
    with semantics():
        assert formats.load(Stored(torch.tensor(2.5)))["values"] == 2.5


def test_later_changes_of_the_module_are_not_seen():
    values = torch.ones(4, 4)
    with semantics():
        found = formats.load(Stored(values))["values"]
    values.zero_()
    assert np.asarray(found).min() == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_and_lookups_of_short_floats_agree_with_the_reference(dtype):
    def make(e, a, b):
        weight, bias = (e.weight(Stored(torch.randn(shape).to(dtype)), "w") for shape in ((21, WIDTH), (21,)))
        return e.op(ops.linear, a, weight, bias)

    program, ids = program_of(make, dtype), random_ids(9)
    executable = lowered(program)
    assert {str(part.dtype) for parts in executable.weights.values() for part in parts.values()} == {str(dtype)[6:]}
    assert error(chunked(executable, ids), reference(program, ids)) <= 1e-6


@pytest.mark.parametrize("activations", ["int8", "float32"])
def test_linear_in_int8_agrees_with_the_reference(activations):
    def make(e, a, b):
        return e.op(ops.linear, a, e.weight(int8(21, WIDTH), "w"), activations=activations)

    program, ids = program_of(make), random_ids(9)
    executable = lowered(program)
    assert error(chunked(executable, ids), reference(program, ids)) <= 1e-6
    assert ("tensor<21x36xi8>) -> tensor<1x21xi32>" in executable.sources()["stablehlo"]) == (activations == "int8")


@pytest.mark.parametrize("activations", ["int8", "float32", "bfloat16"])
def test_four_bits_stay_packed_and_agree_with_the_reference(activations):
    def make(e, a, b):
        return e.op(ops.linear, a, e.weight(stored("int4g32z", 21, WIDTH), "w"), activations=activations)

    program, ids = program_of(make), random_ids(9)
    executable = lowered(program)
    assert {name: str(part.dtype) for name, part in executable.weights["w"].items()} == {
        "values": "uint8", "scale": "float16", "zero": "uint8"
    }  # fmt: skip
    assert error(chunked(executable, ids), reference(program, ids)) <= 1e-6


def test_activations_in_bfloat16_meet_weights_in_bfloat16_as_such():
    def make(e, a, b):
        return e.op(ops.linear, a, e.weight(Stored(torch.randn(21, WIDTH).bfloat16()), "w"), activations="bfloat16")

    program, ids = program_of(make), random_ids(9)
    executable = lowered(program)
    assert "tensor<21x36xbf16>) -> tensor<1x21xf32>" in executable.sources()["stablehlo"]
    assert error(chunked(executable, ids), reference(program, ids)) <= 1e-6


def test_row_of_zeros_is_rounded_to_zeros():
    with semantics():
        levels, scale = formats.quantize_rows(np.array([[0.0, 0.0], [-2.0, 1.0]], np.float32))
    assert np.array_equal(levels, [[0, 0], [-127, 64]]) and float(scale[0, 0]) == 0  # half to even


def test_table_in_int8_is_looked_up():
    def make(e, a, b):
        return e.op(ops.embedding, e.input("position"), e.weight(int8(50, 8), "w"))

    program, ids = program_of(make), random_ids(9)
    assert error(chunked(lowered(program), ids), reference(program, ids)) <= 1e-6


def test_quantized_model_keeps_int8_and_is_read_by_rows(monkeypatch):
    asked = []
    original = Spilled.parts
    monkeypatch.setattr(Spilled, "parts", lambda self, *rows: asked.append(rows) or original(self, *rows))
    monkeypatch.setattr(formats, "CHUNK_ELEMENTS", 72 * 50)
    program = captured(library_model("rope"), "int8")
    asked.clear()
    executable = lowered(program)
    assert max(stop - start for start, stop in asked) == 50
    kinds = {str(executable.weights[str(node.args[1].target)]["values"].dtype) for node in program.find("linear")}
    assert kinds == {"int8"}
    ids = random_ids(40, vocab=101)
    exact, rounding = reference(captured(library_model("rope")), ids), reference(program, ids)
    assert error(chunked(executable, ids), rounding) < error(rounding, exact) < 0.05
