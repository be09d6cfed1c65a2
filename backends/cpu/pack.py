"""Weights as the kernels read them, one after another in one block of memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmc.backends.cpu.plan import ALIGNMENT, CTYPES, ITEM_BYTES
from llmc.ir.formats import Dense
from llmc.ir.program import Program

LANES, K_GROUP = 16, 32
"""Outputs in a panel of float32; what K of an int8 row is filled up to a multiple of (`LANES`, `padded` in the kernels)."""


@dataclass(frozen=True)
class Part:
    """A pointer of the generated structs: C type, what its name ends in, and where it points to in the packed weights."""

    ctype: str
    suffix: str
    offset: int


def padded(columns: int) -> int:
    """Entries of an int8 row of so many columns."""
    return -(-columns // K_GROUP) * K_GROUP


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
    full = torch.zeros(rows, padded(columns), dtype=torch.int8)
    full[:, :columns] = values
    return full


class Packer:
    """Copies of weights in the layouts that statements ask for; `fill` writes them.

    A layout is `panels` (float32, for products), `int8` (whole numbers and scales, for products) or `plain` (as computed with).
    A weight read in two ways is stored twice, but a table is looked up in the layout that a product needs, if one does.
    """

    def __init__(self, program: Program) -> None:
        self.program, self.size = program, 0
        self._multiplied = {str(node.args[1].target) for node in program.find("linear")}  # type: ignore[union-attr]
        self._copies: dict[tuple[str, str], list[Part]] = {}

    def product_layout(self, names: Sequence[str]) -> str:
        """How linear layers read these weights, which have one format."""
        return "panels" if all(isinstance(self.program.weights[name].format, Dense) for name in names) else "int8"

    def table_layout(self, names: Sequence[str]) -> str:
        """How tables are stored that one statement looks up, a different one in each layer or one for all."""
        layout = self.product_layout(names)
        return layout if layout == "int8" or all(name in self._multiplied for name in names) else "plain"

    def pack(self, name: str, layout: str) -> list[Part]:
        """The parts of a weight in a layout; the same for all who ask."""
        if (name, layout) not in self._copies:
            weight = self.program.weights[name]
            if layout == "int8":
                rows, columns = weight.shape
                sizes = [("const int8_t*", "", rows * padded(columns)), ("const float*", "_scale", rows * 4)]
            elif layout == "panels":
                sizes = [("const float*", "", -(-weight.shape[0] // LANES) * LANES * weight.shape[1] * 4)]
            else:
                dtype = weight.type.dtype
                sizes = [(f"const {CTYPES[dtype]}*", "", math.prod(weight.shape) * ITEM_BYTES[dtype])]
            self._copies[name, layout] = [Part(ctype, suffix, self._reserve(size)) for ctype, suffix, size in sizes]
        return self._copies[name, layout]

    def _reserve(self, size: int) -> int:
        offset = self.size
        self.size += -(-size // ALIGNMENT) * ALIGNMENT
        return offset

    def fill(self) -> NDArray[np.uint8]:
        """All copies: uint8, aligned to 64 bytes."""
        raw = np.zeros(self.size + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        memory = raw[start : start + self.size]
        for (name, layout), parts in self._copies.items():
            weight = self.program.weights[name]
            if layout == "int8":
                stored = weight.parts()
                tensors = [padded_rows(stored["values"]), stored["scale"]]
            else:
                value = weight.evaluate()
                tensors = [panels(value) if layout == "panels" else value]
            for part, tensor in zip(parts, tensors, strict=True):
                flat = tensor.contiguous().view(-1)
                data = (flat.to(torch.uint8) if flat.dtype == torch.bool else flat).numpy().view(np.uint8)
                memory[part.offset : part.offset + data.size] = data
        return memory
