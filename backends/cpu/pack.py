"""Weights as the kernels read them, one after another in one block of memory, the same for every instruction set.

A panel is 16 outputs: their inputs lie together in words of 32 bits, 16 lanes side by side, so that one vector register holds a
word of each. A word is a float32, two bfloat16, four codes of 8 bits, or eight of 4 bits.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmc.backends.cpu import pages
from llmc.backends.cpu.plan import ALIGNMENT, CTYPES, ITEM_BYTES
from llmc.backends.cpu.store import cache_folder
from llmc.errors import ToolchainError
from llmc.ir.formats import Format, Integer
from llmc.ir.program import Program
from llmc.ir.weights import Sliced, Weight
from llmc.runtime import progress
from llmc.runtime.cache import CACHE_VARIABLE

LANES, STEP = 16, 32
"""Outputs in a panel; what K of rows of whole numbers is filled up to a multiple of (`LANES`, `STEP` in the kernels)."""

BLOCK_BYTES = 1 << 22
"""Of the rows, as float32, that are packed at once."""

PRODUCTS = ("linear", "gated_linear")
"""Ops that read a weight in panels, as their second operand."""

PLAIN, PANELS = "plain", "panels"
"""The layouts that any weight has: as it is computed with, and in panels of float32. Every other is the name of a format."""


@dataclass(frozen=True)
class Part:
    """A pointer of the generated structs: C type, what its name ends in, and where in the packed weights it points to.

    stride: bytes of 16 rows there (of one, if it is plain). each: bytes from one expert's to the next's, where the weight is
    one of experts.
    """

    ctype: str
    suffix: str
    offset: int
    stride: int
    each: int


def padded(columns: int, group: int = STEP) -> int:
    """Columns filled up to a multiple of a group."""
    return -(-columns // group) * group


def group_of(form: Format, columns: int) -> int:
    """The inputs that share a scale."""
    return form.group if isinstance(form, Integer) and form.group else padded(columns)


def filled(matrix: Tensor, columns: int) -> Tensor:
    """`[N, K]` filled up with zeros to whole panels and to so many columns."""
    rows = padded(len(matrix), LANES)
    if matrix.shape == (rows, columns):
        return matrix
    full = torch.zeros(rows, columns, dtype=matrix.dtype)
    full[: len(matrix), : matrix.shape[1]] = matrix
    return full


def panels(matrix: Tensor, word: int) -> Tensor:
    """`[16 P, K]` as `[P, K / word, 16, word]`."""
    rows, columns = matrix.shape
    return matrix.view(rows // LANES, LANES, columns // word, word).transpose(1, 2).contiguous()


def nibble_words(values: Tensor) -> Tensor:
    """Codes two in a byte, uint8 `[N, K / 2]`, reordered: byte j of a word holds codes j and 4 + j of eight."""
    words = values.view(len(values), -1, 4)
    made = torch.empty_like(words)
    for half in range(2):
        low, high = words[..., half], words[..., half + 2]
        made[..., 2 * half] = low & 15 | high << 4
        made[..., 2 * half + 1] = low >> 4 | high & 0xF0
    return made.view(len(values), -1)


def pack_plain(weight: Weight, start: int, stop: int | None) -> list[Tensor]:
    return [weight.evaluate(start, stop)]


def pack_floats(weight: Weight, start: int, stop: int | None) -> list[Tensor]:
    return [panels(filled(weight.evaluate(start, stop), weight.shape[1]), 1)]


def pack_bfloat16(weight: Weight, start: int, stop: int | None) -> list[Tensor]:
    return [panels(filled(weight.parts(start, stop)["values"], padded(weight.shape[1], 2)).view(torch.int16), 2)]


def pack_bytes(weight: Weight, start: int, stop: int | None) -> list[Tensor]:
    """Eight bits, as they are plus 128."""
    parts = weight.parts(start, stop)
    codes = filled(parts["values"], padded(weight.shape[1])).view(torch.uint8) ^ 0x80
    return [panels(codes, 4), filled(parts["scale"][:, None], 1)]


def pack_nibbles(weight: Weight, start: int, stop: int | None) -> list[Tensor]:
    """Four bits; scales, and zero points if there are any, of 16 outputs side by side."""
    parts = weight.parts(start, stop)
    values = filled(parts["values"], parts["values"].shape[1])
    scales = [panels(filled(parts[name], parts[name].shape[1]), 1) for name in ("scale", "zero") if name in parts]
    return [panels(nibble_words(values), 4), *scales]


class Packer:
    """Copies of weights in the layouts that statements ask for; `fill` writes them.

    A weight read in two ways is stored twice, but a table is looked up in the layout that a product needs, if one does.
    """

    def __init__(self, program: Program) -> None:
        self.program, self.size = program, 0
        self._multiplied = {str(node.args[1].target) for name in PRODUCTS for node in program.find(name)}  # type: ignore[union-attr]
        self._copies: dict[tuple[str, str, int], list[Part]] = {}

    def product_layout(self, names: Sequence[str]) -> str:
        """How linear layers read these weights: as they are stored, but in float32 if it is in several ways, or float16."""
        forms = {str(self.program.weights[name].format) for name in names}
        return PANELS if len(forms) > 1 or forms <= {"f32", "f16"} else forms.pop()

    def table_layout(self, names: Sequence[str]) -> str:
        """How tables are kept that one statement looks up, a different one in each layer or one for all: in the format that
        they have, and where that is float32, by rows."""
        multiplied, layout = all(name in self._multiplied for name in names), self.product_layout(names)
        return layout if multiplied or layout != PANELS else PLAIN

    def pack(self, name: str, layout: str, experts: int = 1) -> list[Part]:
        """The parts of a weight in a layout; the same for all who ask. experts: it holds the matrices of so many, by rows."""
        if (name, layout, experts) not in self._copies:
            weight = self.program.weights[name]
            rows = weight.shape[0] // experts if weight.shape else 1
            count = rows if layout == PLAIN else -(-rows // LANES)
            sizes = strides(weight, layout)
            self._copies[name, layout, experts] = [self._reserve(*size, count, experts) for size in sizes]
        return self._copies[name, layout, experts]

    def _reserve(self, ctype: str, suffix: str, stride: int, count: int, experts: int) -> Part:
        offset, each = self.size, -(-count * stride // ALIGNMENT) * ALIGNMENT
        self.size += each * experts
        return Part(f"const {ctype}*", suffix, offset, stride, each)

    def fill(self) -> NDArray[np.uint8]:
        """All copies: uint8, in a mapped file that has no name, written by blocks of rows.

        Raises ToolchainError if the cache folder, where the file is, has no room.
        """
        if not self.size:
            return np.zeros(0, np.uint8)
        folder = cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                os.posix_fallocate(file.fileno(), 0, self.size)
                memory = pages.prefer_large(mmap.mmap(file.fileno(), self.size))
        except OSError as error:
            raise ToolchainError(
                f"no room for {self.size / 1e6:.0f} MB of packed weights in {folder}: {error}; set {CACHE_VARIABLE}"
            ) from error
        for done, ((name, layout, experts), parts) in enumerate(self._copies.items(), 1):
            progress.report("packing weights", done, len(self._copies))
            whole = self.program.weights[name]
            rows = whole.shape[0] // experts if whole.shape else 0
            for expert in range(experts):
                weight = Sliced(whole, expert * rows, (expert + 1) * rows) if experts > 1 else whole
                self._write(weight, layout, [part.offset + expert * part.each for part in parts], parts, memory)
        return memory

    def _write(
        self, weight: Weight, layout: str, offsets: list[int], parts: list[Part], memory: NDArray[np.uint8]
    ) -> None:
        pack = packing(layout)
        rows = weight.shape[0] if weight.shape else 1
        unit = 1 if layout == PLAIN else LANES
        at_once = max(BLOCK_BYTES // (4 * max(math.prod(weight.shape[1:]), 1)) // LANES, 1) * LANES
        for start in range(0, rows, at_once):
            stop = min(start + at_once, rows) if weight.shape else None
            for offset, part, tensor in zip(offsets, parts, pack(weight, start, stop), strict=True):
                data = tensor.contiguous().view(-1).view(torch.uint8).numpy()
                first = offset + start // unit * part.stride
                memory[first : first + data.size] = data


def packing(layout: str) -> Callable[[Weight, int, int | None], list[Tensor]]:
    """What makes the parts of some rows of a weight in a layout."""
    known = {PLAIN: pack_plain, PANELS: pack_floats, "bf16": pack_bfloat16, "int8": pack_bytes}
    return known.get(layout, pack_nibbles)


def strides(weight: Weight, layout: str) -> list[tuple[str, str, int]]:
    """C type, suffix, and bytes of 16 rows (of one, if plain) for each part."""
    if layout == PLAIN:
        dtype = weight.type.dtype
        return [(CTYPES[dtype], "", math.prod(weight.shape[1:]) * ITEM_BYTES[dtype])]
    columns = weight.shape[1]
    if layout == PANELS:
        return [("float", "", LANES * columns * 4)]
    if layout == "bf16":
        return [("uint16_t", "", LANES * padded(columns, 2) * 2)]
    if layout == "int8":
        return [("uint8_t", "", LANES * padded(columns)), ("float", "_scale", LANES * 4)]
    form = weight.format
    group = group_of(form, columns)
    groups = padded(columns, group) // group
    zero = [("uint8_t", "_zero", LANES * groups)] if isinstance(form, Integer) and form.zero_point else []
    return [("uint8_t", "", LANES * groups * group // 2), ("uint16_t", "_scale", LANES * groups * 2), *zero]
