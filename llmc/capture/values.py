"""What capture knows of each value of the exported graph: labels on its dimensions, and what stands behind it.

Every dimension is labelled: `one` (size one: the batch, or inserted to broadcast), `token` (the sequence), `key` (the sequence
again, as attended to), or `fixed`. Labels come from the rule of each op, never from sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.fx import Node

from llmc.ir.program import type_of
from llmc.ir.score import Q, ScoreExpr
from llmc.ir.weights import Weight


class Refusal(Exception):
    """Why an op cannot be captured; becomes a CaptureError that names the node, its module and its line."""


@dataclass(frozen=True)
class Length:
    """A number that depends on the sequence: `scale * S + offset`."""

    scale: int
    offset: int

    @staticmethod
    def of(value: int | Length) -> Length:
        return value if isinstance(value, Length) else Length(0, value)

    @staticmethod
    def plain(scale: int, offset: int) -> int | Length:
        """A Length, or an int if it does not depend on the sequence."""
        return Length(scale, offset) if scale else offset


S = Length(1, 0)
"""The length of the sequence."""

Size = int | Length


@dataclass(frozen=True)
class Dim:
    """A labelled dimension; `size` counts for fixed ones only."""

    label: str
    size: int = 1

    @property
    def extent(self) -> Size:
        """Size as the exported graph sees it."""
        return S if self.label in ("token", "key") else self.size

    def __str__(self) -> str:
        return str(self.size) if self.label == "fixed" else self.label


ONE, TOKEN, KEY = Dim("one"), Dim("token"), Dim("key")
Layout = tuple[Dim, ...]


def fixed(size: int) -> Dim:
    """A fixed dimension."""
    return Dim("fixed", size)


def index_of(layout: Layout, label: str) -> int | None:
    """Where a label stands, or None."""
    return next((i for i, dim in enumerate(layout) if dim.label == label), None)


def normal(dim: int, rank: int) -> int:
    """A dimension counted from the front."""
    return dim + rank if dim < 0 else dim


@dataclass(frozen=True, eq=False)
class Value:
    """Anything with a layout."""

    layout: Layout

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Shape as the exported graph sees it."""
        return tuple(dim.extent for dim in self.layout)

    def with_layout(self, layout: Sequence[Dim]) -> Any:
        """The same value under another arrangement of `one` dimensions."""
        return replace(self, layout=tuple(layout))


@dataclass(frozen=True, eq=False)
class Stream(Value):
    """A computed value: `node` has the fixed dimensions of the layout, in order, after its tokens."""

    node: Node

    @property
    def fixed(self) -> tuple[int, ...]:
        """Sizes of the fixed dimensions."""
        return tuple(dim.size for dim in self.layout if dim.label == "fixed")

    @property
    def dtype(self) -> str:
        return type_of(self.node).dtype


@dataclass(frozen=True, eq=False)
class Const(Value):
    """A weight: all its dimensions are `fixed` or `one`. `real` if its numbers may be looked at now (it is no parameter)."""

    weight: Weight
    name: str
    real: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    def tensor(self) -> Tensor:
        """The numbers."""
        return self.weight.evaluate()

    def number(self) -> float | int | bool | None:
        """The only element of a constant that is no parameter, or None."""
        return self.tensor().item() if self.real and self.tensor().numel() == 1 else None


def const(weight: Weight, name: str, real: bool) -> Const:
    """A weight with all its dimensions fixed."""
    return Const(tuple(fixed(size) if size != 1 else ONE for size in weight.shape), weight, name, real)


@dataclass(frozen=True, eq=False)
class Table(Value):
    """A constant cut to the length of the sequence along one or two dimensions, not yet put to use."""

    base: Const
    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Scores(Value):
    """An expression over positions, and over the product of `source` = (q, k) if there is one.

    With a `token` dimension alone it is a number for each position, such as `arange(S)`; `key` makes it pairwise. Fixed
    dimensions, if any, are the heads of the source.
    """

    expr: ScoreExpr
    dtype: str
    source: tuple[Stream, Stream] | None = None

    @property
    def pairwise(self) -> bool:
        """Whether it relates positions."""
        return self.source is not None or index_of(self.layout, "key") is not None


@dataclass(frozen=True, eq=False)
class Probabilities(Value):
    """Scores after the softmax over their keys; all that can be done with them is to weigh values."""

    scores: Scores


@dataclass(frozen=True, eq=False)
class Empty(Value):
    """A value without elements, which some code makes to join it to others; it cannot be computed with."""

    dtype: str


@dataclass(frozen=True, eq=False)
class Count(Value):
    """The number of tokens of a whole sequence; all that can be done with it is to divide a sum over them."""

    dtype: str


def positions() -> Scores:
    """`arange(S)`."""
    return Scores((TOKEN,), Q, "int64")
