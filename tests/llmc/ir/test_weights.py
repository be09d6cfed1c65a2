"""Weights as expressions."""

import pytest
import torch

from llmc.errors import ArtifactError, VerificationError
from llmc.ir.formats import Dense
from llmc.ir.weights import Computed, Concatenated, Loaded, Sliced, Stored

BASE = Stored(torch.arange(40.0).view(10, 4))


@pytest.mark.parametrize(("start", "stop"), [(5, 20), (-1, 3), (4, 4), (7, 2)])
def test_slice_of_rows_that_there_are_not_is_refused(start, stop):
    with pytest.raises(VerificationError, match=f"no rows {start} to {stop} of f32"):
        Sliced(BASE, start, stop)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16, torch.complex64], ids=str)
def test_dtype_that_no_format_has_is_refused(dtype):
    with pytest.raises(VerificationError, match=r"cannot be stored as .*; cast it to one of float32"):
        Stored(torch.zeros(3).to(dtype))


def test_weights_of_different_rows_do_not_concatenate():
    with pytest.raises(VerificationError, match="different formats or rows"):
        Concatenated((BASE, Stored(torch.zeros(2, 3))))


def test_computed_weight_read_by_rows_is_evaluated_once():
    calls = []
    weight = Computed(lambda t: calls.append(1) or t * 2, (BASE,), BASE.shape, "float32")
    rows = torch.cat([weight.evaluate(i, i + 3) for i in range(0, 10, 3)])
    assert torch.equal(rows, BASE.tensor * 2) and len(calls) == 1
    other = Computed(lambda t: t * 3, (BASE,), BASE.shape, "float32")
    assert torch.equal(other.evaluate(1, 2), BASE.tensor[1:2] * 3)


def test_file_that_is_missing_is_refused_by_its_path(tmp_path):
    with pytest.raises(ArtifactError, match="ghost"):
        Loaded(tmp_path / "ghost.safetensors", {"values": "w"}, (2,), Dense("float32"))
