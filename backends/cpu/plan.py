"""Where values live: views share memory, hazards ask for barriers, and buffers with a barrier between them share bytes.

All sizes are of one row (token, or requested row); a buffer's address is its offset times the number of rows of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.fx import Node

ALIGNMENT = 64
ITEM_BYTES = {"float32": 4, "int64": 8, "bool": 1, "int32": 4, "uint16": 2, "int8": 1}
CTYPES = {"float32": "float", "int64": "int64_t", "bool": "uint8_t", "int32": "int32_t", "uint16": "uint16_t", "int8": "int8_t"}


@dataclass(eq=False)
class Buffer:
    """Memory for a value. `external` buffers (inputs, outputs, caches) have an address of their own.

    first, last: the phases in which it is needed (`set_lifetimes`); offset: bytes from the start of the arena, for one row.
    twin: the buffer that this one changes places with from layer to layer. After the loop nobody but the number of layers
    knows which memory either name means, so both live as long as one does.
    """

    name: str
    width: int
    dtype: str
    external: bool = False
    first: int = -1
    last: int = -1
    offset: int = -1
    twin: Buffer | None = None

    @property
    def bytes(self) -> int:
        """Of one row, rounded up so that the next buffer is aligned."""
        return -(-self.width * ITEM_BYTES[self.dtype] // ALIGNMENT) * ALIGNMENT

    def touch(self, phase: int) -> None:
        """It is needed in a phase."""
        for buffer in (self, self.twin) if self.twin else (self,):
            buffer.first = phase if buffer.first < 0 else min(buffer.first, phase)
            buffer.last = max(buffer.last, phase)


@dataclass(frozen=True)
class Location:
    """Elements of a row: `width` of them in order from `offset`, rows `buffer.width` apart."""

    buffer: Buffer
    offset: int
    width: int

    @property
    def stride(self) -> int:
        """Elements from row to row."""
        return self.buffer.width

    @property
    def whole(self) -> bool:
        """Whether rows follow each other without a gap."""
        return self.offset == 0 and self.width == self.buffer.width

    @property
    def pointer(self) -> str:
        """The address of its first element in C++."""
        return f"{self.buffer.name} + {self.offset}" if self.offset else self.buffer.name


def whole(buffer: Buffer) -> Location:
    """All of a buffer."""
    return Location(buffer, 0, buffer.width)


@dataclass
class Statement:
    """A line of the step function.

    rows: the number that is split over the threads ("T", "R", "S", "T * 3") if each thread touches rows of its own share alone;
    None if some thread reads or writes another's. Statements with the same expression split alike. nodes: what it computes
    (part of), in the loop one of each layer.
    """

    text: str
    reads: list[Buffer]
    writes: list[Buffer]
    rows: str | None = None
    comment: str = ""
    nodes: Sequence[Node] = ()
    barrier: bool = field(default=False)


def place_barriers(statements: list[Statement]) -> int:
    """Mark the statements that must wait until all threads have finished what came before; how many."""
    pending: list[Statement] = []
    for statement in statements:
        if any(conflict(earlier, statement) for earlier in pending):
            statement.barrier = True
            pending = []
        pending.append(statement)
    return sum(statement.barrier for statement in statements)


def conflict(earlier: Statement, later: Statement) -> bool:
    """Whether a thread may start `later` only when all have finished `earlier`: one writes what the other reads or writes.

    Buffers that share bytes do not count: `set_lifetimes` has a barrier between any two that do.
    """
    if earlier.rows is not None and earlier.rows == later.rows:
        return False
    touched = {*later.reads, *later.writes}
    return not touched.isdisjoint(earlier.writes) or not set(later.writes).isdisjoint(earlier.reads)


def set_lifetimes(sections: Sequence[list[Statement]], buffers: list[Buffer]) -> None:
    """When each buffer is needed, in phases: what lies between two barriers.

    sections: statements before, in and after the loop; there is a barrier at either end of the loop's. Buffers needed in the
    same phase are alive together, so that sharing memory never asks for another barrier.
    """
    phase = 0
    edges = []
    for section in sections:
        phase += 1
        edges.append(phase)
        for statement in section:
            phase += statement.barrier
            for buffer in (*statement.reads, *statement.writes):
                buffer.touch(phase)
        edges.append(phase)
    enter, leave = edges[2:4]
    for buffer in buffers:
        if buffer.twin:
            buffer.touch(enter)
            buffer.touch(leave)
        elif buffer.first < enter <= buffer.last:  # a value from before the loop lives until its end
            buffer.touch(leave)


def assign_offsets(buffers: list[Buffer]) -> int:
    """Give every buffer an offset such that those alive together do not overlap; the bytes of a row that all need.

    Largest first, each at the lowest offset that is free during its life.
    """
    placed: list[Buffer] = []
    for buffer in sorted((b for b in buffers if not b.external and b.first >= 0), key=lambda b: (-b.bytes, b.first)):
        offset = 0
        for other in sorted(placed, key=lambda b: b.offset):
            alive_together = other.first <= buffer.last and buffer.first <= other.last
            if alive_together and other.offset < offset + buffer.bytes and offset < other.offset + other.bytes:
                offset = other.offset + other.bytes
        buffer.offset = offset
        placed.append(buffer)
    return max((b.offset + b.bytes for b in placed), default=ALIGNMENT)
