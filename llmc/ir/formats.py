"""How the numbers of a weight are stored."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from llmc.errors import VerificationError

DENSE_DTYPES = ("float32", "float16", "bfloat16", "int64", "bool")
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "bool": 1, "int8": 1}


@dataclass(frozen=True)
class Dense:
    """One number after the other. Component: `values`, of the weight's shape."""

    dtype: str

    def components(self, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and shape of each stored tensor."""
        return {"values": (self.dtype, shape)}

    def dequantize(self, parts: dict[str, Tensor]) -> Tensor:
        """The weight as it is used in computing: float32 unless it is no float."""
        values = parts["values"]
        return values.float() if values.is_floating_point() and values.dtype != torch.float64 else values

    def __str__(self) -> str:
        return {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int64": "i64", "bool": "bool"}[self.dtype]


@dataclass(frozen=True)
class Integer:
    """Whole numbers of `bits` bits, symmetric about zero, times a scale for each row of a matrix `[N, K]`.

    Components: `values` int8 `[N, K]`, `scale` float32 `[N]`.
    """

    bits: int

    def components(self, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and shape of each stored tensor."""
        return {"values": ("int8", shape), "scale": ("float32", shape[:1])}

    def dequantize(self, parts: dict[str, Tensor]) -> Tensor:
        """values * scale, float32 `[N, K]`."""
        return parts["values"].float() * parts["scale"][:, None]

    def __str__(self) -> str:
        return f"int{self.bits}"


Format = Dense | Integer
FORMATS: dict[str, type[Dense] | type[Integer]] = {"dense": Dense, "integer": Integer}


def stored_bytes(form: Format, shape: tuple[int, ...]) -> int:
    """Bytes of all components."""
    total = 0
    for dtype, sizes in form.components(shape).values():
        count = 1
        for size in sizes:
            count *= size
        total += count * BYTES[dtype]
    return total


def to_json(form: Format) -> dict[str, Any]:
    """The format's name and fields."""
    return {"kind": "dense" if isinstance(form, Dense) else "integer", **asdict(form)}


def from_json(data: Any) -> Format:
    """The format of `to_json`. Raises VerificationError for anything else."""
    fields = {key: value for key, value in data.items() if key != "kind"} if isinstance(data, dict) else {}
    if data == {"kind": "dense", **fields} and set(fields) == {"dtype"} and fields["dtype"] in DENSE_DTYPES:
        return Dense(fields["dtype"])
    if data == {"kind": "integer", **fields} and fields == {"bits": 8}:
        return Integer(8)
    raise VerificationError(f"not a weight format: {data!r}")
