"""How the numbers of a weight are stored. Names and sizes are known without torch, which is imported where numbers are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llmc.errors import VerificationError

if TYPE_CHECKING:
    from torch import Tensor

DENSE_DTYPES = ("float32", "float16", "bfloat16", "int64", "bool")
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "bool": 1, "int8": 1, "uint8": 1}
GROUPS = (32, 64, 128)
MIDDLE = 8
"""The code of zero among 0..15 where a format has no zero point."""


@dataclass(frozen=True)
class Dense:
    """One number after the other. Component: `values`, of the weight's shape."""

    dtype: str

    def components(self, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and shape of each stored tensor."""
        return {"values": (self.dtype, shape)}

    def dequantize(self, parts: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """Rows of a weight of this shape as they are used in computing: float32 unless they are no floats."""
        values = parts["values"]
        return values.float() if values.is_floating_point() else values

    def __str__(self) -> str:
        return {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int64": "i64", "bool": "bool"}[self.dtype]


@dataclass(frozen=True)
class Integer:
    """Whole numbers of few bits times a scale: of a row of a matrix `[N, K]`, or of each `group` of columns within a row.

    - bits 8, no groups: `values` int8 `[N, K]`, `scale` float32 `[N]`; a number is `values * scale`.
    - bits 4, groups of 32, 64 or 128 columns: K is filled up to a multiple of the group, `Kp`. `values` uint8 `[N, Kp / 2]`
      holds the code of column 2j in the low four bits of byte j and that of column 2j + 1 in the high ones; `scale` float16
      `[N, Kp / group]`; with a zero point `zero` uint8 `[N, Kp / group]`, 0 to 15. A number is `(code - zero) * scale`, where
      zero is 8 if there is no zero point; columns that fill up hold the code of zero.

    Raises VerificationError for any other combination.
    """

    bits: int
    group: int | None = None
    zero_point: bool = False

    def __post_init__(self) -> None:
        if (self.bits, self.group, self.zero_point) != (8, None, False) and not (self.bits == 4 and self.group in GROUPS):
            raise VerificationError(
                "there are whole numbers of 8 bits with a scale for each row, and of 4 bits in groups of "
                f"{', '.join(map(str, GROUPS))}; not of bits={self.bits}, group={self.group}, zero_point={self.zero_point}"
            )

    def components(self, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and shape of each stored tensor. Raises VerificationError for a weight that is no matrix."""
        if len(shape) != 2:
            raise VerificationError(f"{self} is for matrices, not for a weight of shape {list(shape)}")
        rows, columns = shape
        if self.group is None:
            return {"values": ("int8", shape), "scale": ("float32", (rows,))}
        count = -(-columns // self.group)
        zero = {"zero": ("uint8", (rows, count))} if self.zero_point else {}
        return {"values": ("uint8", (rows, count * self.group // 2)), "scale": ("float16", (rows, count)), **zero}

    def dequantize(self, parts: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """Rows of a weight of this shape: float32 `[N, K]`."""
        scale = parts["scale"].float()
        if self.group is None:
            return parts["values"].float() * scale[:, None]
        codes = unpack_nibbles(parts["values"])
        grouped = codes.unflatten(1, (codes.shape[1] // self.group, self.group)).float()
        zero = parts["zero"].float()[..., None] if self.zero_point else MIDDLE
        return ((grouped - zero) * scale[..., None]).flatten(1)[:, : shape[1]]

    def __str__(self) -> str:
        return f"int{self.bits}" + ("" if self.group is None else f"g{self.group}") + "z" * self.zero_point


def pack_nibbles(codes: Tensor) -> Tensor:
    """Codes 0 to 15, uint8 `[..., K]` of even K, two in a byte, the first in the low bits: uint8 `[..., K / 2]`."""
    return codes[..., 0::2] | codes[..., 1::2] << 4


def unpack_nibbles(packed: Tensor) -> Tensor:
    """What `pack_nibbles` was given: uint8 `[..., K]` of uint8 `[..., K / 2]`."""
    import torch

    return torch.stack((packed & 15, packed >> 4), -1).flatten(-2)


INT4 = tuple(str(Integer(4, group, zero_point)) for group in GROUPS for zero_point in (False, True))
"""The formats of four bits as `Backend.formats` names them: int4g32, int4g32z and so on."""


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
    if data == {"kind": "integer", **fields} and set(fields) == {"bits", "group", "zero_point"}:
        kinds = (type(fields["bits"]), type(fields["group"]), type(fields["zero_point"]))
        if kinds in ((int, int, bool), (int, type(None), bool)):
            return Integer(**fields)
    raise VerificationError(f"not a weight format: {data!r}")
