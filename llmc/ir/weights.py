"""Weights as expressions: nothing is read, cast or merged before `parts` or `rows` is called.

A weight has a shape, a format (`llmc.ir.formats`) and components, the tensors it is stored in. Rows are entries of the first
dimension; they are what large weights are read and transformed by.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from llmc.errors import ArtifactError, VerificationError
from llmc.ir.formats import DENSE_DTYPES, Dense, Format, stored_bytes
from llmc.ir.types import TensorType


class Weight(ABC):
    """A tensor known at compile time."""

    shape: tuple[int, ...]
    format: Format

    @abstractmethod
    def parts(self, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        """The stored components of rows start to stop (all by default)."""

    def evaluate(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows start to stop as they enter a computation: float32, int64 or bool."""
        return self.format.dequantize(self.parts(start, stop), self.shape)

    @property
    def type(self) -> TensorType:
        """How programs see the weight; every float format computes as float32."""
        plain = isinstance(self.format, Dense) and self.format.dtype in ("int64", "bool")
        return TensorType(self.format.dtype if plain else "float32", self.shape)  # type: ignore[union-attr]

    @property
    def bytes(self) -> int:
        """Size of all components as stored."""
        return stored_bytes(self.format, self.shape)

    def __str__(self) -> str:
        return f"{self.format}[{', '.join(map(str, self.shape))}]"


def dense_format(tensor: Tensor) -> Dense:
    """The format of a tensor as it is; doubles are stored as float32 and small integers as int64.

    Raises VerificationError for a dtype that no format has.
    """
    names = {torch.float64: "float32", torch.int32: "int64", torch.int16: "int64", torch.int8: "int64", torch.uint8: "int64"}
    name = names.get(tensor.dtype) or str(tensor.dtype).removeprefix("torch.")
    if name not in DENSE_DTYPES:
        raise VerificationError(f"a weight cannot be stored as {name}; cast it to one of {', '.join(DENSE_DTYPES)}")
    return Dense(name)


@dataclass(eq=False)
class Stored(Weight):
    """A tensor held in memory."""

    tensor: Tensor
    shape: tuple[int, ...] = field(init=False)
    format: Format = field(init=False)

    def __post_init__(self) -> None:
        self.tensor = self.tensor.detach()
        self.shape, self.format = tuple(self.tensor.shape), dense_format(self.tensor)

    def parts(self, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        rows = self.tensor[start:stop] if self.shape else self.tensor
        return {"values": rows.to(getattr(torch, self.format.dtype))}  # type: ignore[union-attr]


Stamp = tuple[int, int, int]
"""What tells one state of a file from another: inode, size, time of change in ns."""


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file as it is now. Raises ArtifactError if it is not there."""
    try:
        found = path.stat()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read the weights: {error}") from error
    return found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=64)
def opened(path: Path, stamp: Stamp) -> Any:
    """The safetensors file, mapped; it stays readable after another file takes its path.

    Raises ArtifactError if the file is no longer the one of this stamp.
    """
    if stamp_of(path) != stamp:
        raise ArtifactError(f"{path}: the file changed on disk after it was loaded; load it again")
    return safe_open(path, framework="pt")


@dataclass(eq=False)
class Loaded(Weight):
    """Tensors of a safetensors file, mapped when read; `names` gives the file's name of each component."""

    path: Path
    names: dict[str, str]
    shape: tuple[int, ...]
    format: Format
    stamp: Stamp = field(init=False)

    def __post_init__(self) -> None:
        self.stamp = stamp_of(self.path)

    def parts(self, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        try:
            handle = opened(self.path, self.stamp)
            whole = {part: handle.get_slice(name) for part, name in self.names.items()}
            return {part: s[start:stop] if s.get_shape() else handle.get_tensor(self.names[part]) for part, s in whole.items()}
        except ArtifactError:
            raise
        except Exception as error:  # safetensors raises its own type for a damaged file
            raise ArtifactError(f"{self.path}: cannot read {', '.join(self.names.values())}: {error}") from error


@dataclass(eq=False)
class Sliced(Weight):
    """Rows start to stop of a weight in any format whose components all have rows."""

    base: Weight
    start: int
    stop: int

    def __post_init__(self) -> None:
        rows = self.base.shape[0] if self.base.shape else 0
        if not 0 <= self.start < self.stop <= rows:
            raise VerificationError(f"there are no rows {self.start} to {self.stop} of {self.base}")
        self.shape, self.format = (self.stop - self.start, *self.base.shape[1:]), self.base.format

    def parts(self, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        stop = self.shape[0] if stop is None else min(stop, self.shape[0])
        return self.base.parts(self.start + start, self.start + stop)


@dataclass(eq=False)
class Concatenated(Weight):
    """Weights of one format, one after another by rows. `names`: what the pieces are called in the program, where known."""

    pieces: tuple[Weight, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        first = self.pieces[0]
        if any(not p.shape or p.format != first.format or p.shape[1:] != first.shape[1:] for p in self.pieces):
            raise VerificationError(f"weights of different formats or rows: {', '.join(map(str, self.pieces))}")
        self.shape, self.format = (sum(p.shape[0] for p in self.pieces), *first.shape[1:]), first.format

    def parts(self, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        stop = self.shape[0] if stop is None else min(stop, self.shape[0])
        found, offset = [], 0
        for piece in self.pieces:
            low, high = max(start - offset, 0), min(stop - offset, piece.shape[0])
            if low < high:
                found.append(piece.parts(low, high))
            offset += piece.shape[0]
        found = found or [self.pieces[0].parts(0, 0)]
        return {name: torch.cat([parts[name] for parts in found]) for name in found[0]}


@dataclass(eq=False)
class Computed(Weight):
    """A function of other weights, evaluated as a whole: a transpose, `1 + weight`, a folded constant.

    The last one of which some rows were read is kept until another is, so that reading by rows evaluates it once.
    """

    function: Callable[..., Tensor]
    bases: tuple[Weight, ...]
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        self.format = Dense(self.dtype)

    def parts(self, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        whole = not self.shape or (start == 0 and (stop is None or stop >= self.shape[0]))
        return {"values": self.compute() if whole else _last_computed(self)[start:stop]}

    def compute(self) -> Tensor:
        """All of it."""
        return self.function(*(base.evaluate() for base in self.bases)).to(getattr(torch, self.dtype)).contiguous()


@lru_cache(maxsize=1)
def _last_computed(weight: Computed) -> Tensor:
    return weight.compute()


@dataclass(eq=False)
class Encoded(Weight):
    """A weight in another format, made from its rows by `encode(rows float32) -> components`."""

    base: Weight
    format: Format
    encode: Callable[[Tensor], dict[str, Tensor]]

    def __post_init__(self) -> None:
        self.shape = self.base.shape

    def parts(self, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        return self.encode(self.base.evaluate(start, stop))
