"""Writing weights as safetensors, a block of rows at a time: no more than one block is in memory.

The format is eight bytes with the length of a JSON header, the header (dtype, shape and place of each tensor), and the numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from llmc.ir.formats import BYTES
from llmc.ir.weights import Weight

DTYPE_CODES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
BLOCK_BYTES = 1 << 22


def component_name(weight: str, part: str) -> str:
    """How a component is called in our files; in a checkpoint of the library a weight has one, of the weight's own name."""
    return f"{weight}:{part}"


def write_weights(weights: Mapping[str, Weight], path: Path, name_of: Callable[[str, str], str] = component_name) -> None:
    """Write every component of every weight, under the name that `name_of(weight, component)` gives it."""
    parts = [
        (name_of(name, part), dtype, shape)
        for name, weight in weights.items()
        for part, (dtype, shape) in weight.format.components(weight.shape).items()
    ]
    header, starts, end = {}, {}, 0
    for key, dtype, shape in sorted(parts, key=lambda part: -BYTES[part[1]]):  # the widest first, so that all are aligned
        starts[key], end = end, end + BYTES[dtype] * math.prod(shape)
        header[key] = {"dtype": DTYPE_CODES[dtype], "shape": shape, "data_offsets": [starts[key], end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for name, weight in weights.items():
            rows = weight.shape[0] if weight.shape else 1
            step = max(BLOCK_BYTES * rows // max(weight.bytes, 4 * math.prod(weight.shape), 1), 1)  # it is made from float32
            for start in range(0, rows, step):
                block = weight.parts(start, min(start + step, rows)) if weight.shape else weight.parts()
                for part, tensor in block.items():
                    dtype, shape = weight.format.components(weight.shape)[part]
                    size = BYTES[dtype] * math.prod(shape[1:])
                    file.seek(8 + len(text) + starts[name_of(name, part)] + start * size)
                    file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
