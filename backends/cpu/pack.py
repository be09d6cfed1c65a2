"""Weights as the kernels read them, one after another in one block of memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmc.ir.formats import Dense
from llmc.ir.program import Program
from llmc.ir.weights import Weight

LANES = 16
ALIGNMENT = 64


@dataclass(frozen=True)
class Field:
    """A pointer of the generated structs: C type and byte offset of the weight's part."""

    ctype: str
    suffix: str
    offset: int


def panels(matrix: Tensor) -> Tensor:
    """`[N, K]` as panels of 16 outputs: `[N / 16, K, 16]`, the last filled up with zeros."""
    rows, columns = matrix.shape
    count = -(-rows // LANES)
    full = torch.zeros(count * LANES, columns)
    full[:rows] = matrix
    return full.view(count, LANES, columns).transpose(1, 2).contiguous()


def padded_rows(values: Tensor) -> Tensor:
    """int8 `[N, K]` with K filled up with zeros to a multiple of 32."""
    rows, columns = values.shape
    full = torch.zeros(rows, -(-columns // 32) * 32, dtype=torch.int8)
    full[:, :columns] = values
    return full


def layout_of(weight: Weight, read_by_linear: bool) -> str:
    """How a weight is packed: `panels`, `int8`, or `plain`."""
    if not isinstance(weight.format, Dense):
        return "int8"
    return "panels" if read_by_linear else "plain"


CTYPES = {"float32": "const float*", "int64": "const int64_t*", "bool": "const uint8_t*"}


class Packer:
    """Collects parts and their offsets; `fill` writes them."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.linear = {str(node.args[1].target) for node in program.find("linear")}  # type: ignore[union-attr]
        self.fields: dict[str, list[Field]] = {}
        self.size = 0
        for name, weight in program.weights.items():
            layout = layout_of(weight, name in self.linear)
            if layout == "int8":
                rows, columns = weight.shape
                parts = [("const int8_t*", "", rows * (-(-columns // 32) * 32)), ("const float*", "_scale", rows * 4)]
            elif layout == "panels":
                parts = [("const float*", "", -(-weight.shape[0] // LANES) * LANES * weight.shape[1] * 4)]
            else:
                item = {"float32": 4, "int64": 8, "bool": 1}[weight.type.dtype]
                parts = [(CTYPES[weight.type.dtype], "", int(np.prod(weight.shape)) * item)]
            self.fields[name] = [Field(ctype, suffix, self._reserve(size)) for ctype, suffix, size in parts]

    def _reserve(self, size: int) -> int:
        offset = self.size
        self.size += -(-size // ALIGNMENT) * ALIGNMENT
        return offset

    def layout(self, name: str) -> str:
        """How a weight is packed."""
        return layout_of(self.program.weights[name], name in self.linear)

    def fill(self) -> NDArray[np.uint8]:
        """All weights, packed: uint8, aligned to 64 bytes."""
        raw = np.zeros(self.size + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        memory = raw[start : start + self.size]
        for name, weight in self.program.weights.items():
            layout = self.layout(name)
            if layout == "int8":
                stored = weight.parts()
                tensors = [padded_rows(stored["values"]), stored["scale"]]
            else:
                value = weight.evaluate()
                tensors = [panels(value) if layout == "panels" else value]
            for field, tensor in zip(self.fields[name], tensors, strict=True):
                flat = tensor.contiguous().view(-1)
                data = (flat.to(torch.uint8) if flat.dtype == torch.bool else flat).numpy().view(np.uint8)
                memory[field.offset : field.offset + data.size] = data
        return memory
