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
from llmc.ir.weights import Sliced, Weight
from llmc.runtime import progress

LANES, K_GROUP = 16, 32
"""Outputs in a panel of float32; what K of an int8 row is filled up to a multiple of (`LANES`, `padded` in the kernels)."""


@dataclass(frozen=True)
class Part:
    """A pointer of the generated structs: C type, what its name ends in, and where it points to in the packed weights.

    each: bytes from one expert's to the next's, where the weight is one of experts.
    """

    ctype: str
    suffix: str
    offset: int
    each: int


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
        self._copies: dict[tuple[str, str, int], list[Part]] = {}

    def product_layout(self, names: Sequence[str]) -> str:
        """How linear layers read these weights, which have one format."""
        return "panels" if all(isinstance(self.program.weights[name].format, Dense) for name in names) else "int8"

    def table_layout(self, names: Sequence[str]) -> str:
        """How tables are stored that one statement looks up, a different one in each layer or one for all."""
        layout = self.product_layout(names)
        return layout if layout == "int8" or all(name in self._multiplied for name in names) else "plain"

    def pack(self, name: str, layout: str, experts: int = 1) -> list[Part]:
        """The parts of a weight in a layout; the same for all who ask. experts: it holds the matrices of so many, by rows."""
        if (name, layout, experts) not in self._copies:
            whole = self.program.weights[name]
            weight = Sliced(whole, 0, whole.shape[0] // experts) if experts > 1 else whole
            if layout == "int8":
                rows, columns = weight.shape
                sizes = [("const int8_t*", "", rows * padded(columns)), ("const float*", "_scale", rows * 4)]
            elif layout == "panels":
                sizes = [("const float*", "", -(-weight.shape[0] // LANES) * LANES * weight.shape[1] * 4)]
            else:
                dtype = weight.type.dtype
                sizes = [(f"const {CTYPES[dtype]}*", "", math.prod(weight.shape) * ITEM_BYTES[dtype])]
            self._copies[name, layout, experts] = [self._reserve(*size, experts) for size in sizes]
        return self._copies[name, layout, experts]

    def _reserve(self, ctype: str, suffix: str, size: int, experts: int) -> Part:
        offset, each = self.size, -(-size // ALIGNMENT) * ALIGNMENT
        self.size += each * experts
        return Part(ctype, suffix, offset, each)

    def fill(self) -> NDArray[np.uint8]:
        """All copies: uint8, aligned to 64 bytes."""
        raw = np.zeros(self.size + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        memory = raw[start : start + self.size]
        for done, ((name, layout, experts), parts) in enumerate(self._copies.items(), 1):
            progress.report("packing weights", done, len(self._copies))
            whole = self.program.weights[name]
            rows = whole.shape[0] // experts if whole.shape else 0
            for expert in range(experts):
                weight = Sliced(whole, expert * rows, (expert + 1) * rows) if experts > 1 else whole
                for part, tensor in zip(parts, packed(weight, layout), strict=True):
                    flat = tensor.contiguous().view(-1)
                    data = (flat.to(torch.uint8) if flat.dtype == torch.bool else flat).numpy().view(np.uint8)
                    start = part.offset + expert * part.each
                    memory[start : start + data.size] = data
        return memory


def packed(weight: Weight, layout: str) -> list[Tensor]:
    """The numbers of each part of a layout."""
    if layout == "int8":
        stored = weight.parts()
        return [padded_rows(stored["values"]), stored["scale"]]
    value = weight.evaluate()
    return [panels(value) if layout == "panels" else value]
