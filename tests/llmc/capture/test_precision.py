"""Computing in float32 with tensors in half precision."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from llmc.capture import precision
from llmc.capture.precision import InFloat32

IDS = torch.tensor([[3, 0, 11, 3]])


class Largest(TorchDispatchMode):
    """How many numbers the largest float32 tensor has that an op makes while this is active."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float32:
            self.found = max(self.found, made.untyped_storage().nbytes() // 4)
        return made


class TableAndHead(nn.Module):
    def __init__(self, bias):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(300, 16), nn.Linear(16, 300, bias=bias)

    def forward(self, ids):
        return self.head(self.table(ids))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("block", [1, 16 * 7, 1 << 20])
def test_tables_and_linear_layers_give_what_float32_copies_do(monkeypatch, block, dtype, bias):
    monkeypatch.setattr(precision, "BLOCK_ELEMENTS", block)
    module = TableAndHead(bias).to(dtype)
    with torch.no_grad():
        with InFloat32(module.parameters()):
            found = module(IDS)
        expected = module.float()(IDS)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_tables_and_weights_of_linear_layers_are_never_copied_as_a_whole(monkeypatch):
    monkeypatch.setattr(precision, "BLOCK_ELEMENTS", 16 * 7)
    module = TableAndHead(True).bfloat16()
    with torch.no_grad(), Largest() as largest, InFloat32(module.parameters()):
        module(IDS)
    assert largest.found == IDS.numel() * 300  # the logits


OPS = {
    "rows of a table, by name": lambda table, x: F.embedding(input=IDS, weight=table),
    "rows of a table, scaled down": lambda table, x: F.embedding(IDS, table.clone(), max_norm=0.5),
    "weight by name": lambda table, x: F.linear(x, weight=table),
    "one output": lambda table, x: F.linear(x, table[0]),
    "one row": lambda table, x: F.linear(x[0, 0], table),
    "no rows": lambda table, x: F.linear(x[:, :0], table),
    "transposed": lambda table, x: x @ table.T,
    "dtype": lambda table, x: torch.ones(1, dtype=table.dtype),
}


@pytest.mark.parametrize("name", OPS)
def test_any_op_sees_float32(name):
    table = torch.randn(12, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), InFloat32([table]):
        found = OPS[name](table, x)
    expected = OPS[name](table.float(), x)
    assert found.dtype == expected.dtype == torch.float32
    assert found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_other_tensors_in_half_precision_stay_what_they_are():
    with InFloat32([torch.ones(2).half()]):
        assert (torch.ones(2).half() + 1).dtype == torch.float16
