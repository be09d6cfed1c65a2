"""Where values live: views share memory, hazards ask for barriers, and buffers with a barrier between them share bytes.

All sizes are of one row (token, or requested row); a buffer's address is its offset times the number of rows of the step.

The same statements have two plans. With many rows each thread takes a share of them wherever rows do not depend on each other.
With few rows most threads would wait while others work, so each thread does all that for itself, in memory of its own: then it
waits only where products and attention, which are split in another way, meet.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.fx import Node

ALIGNMENT = 64
ITEM_BYTES = {"float32": 4, "int64": 8, "bool": 1, "int32": 4, "uint16": 2, "int8": 1}
CTYPES = {"float32": "float", "int64": "int64_t", "bool": "uint8_t", "int32": "int32_t", "uint16": "uint16_t", "int8": "int8_t"}


@dataclass(eq=False)
class Buffer:
    """Memory for a value. `external` buffers (inputs, outputs, caches) have an address of their own.

    twin: the buffer that this one changes places with from layer to layer. After the loop nobody but the number of layers
    knows which memory either name means, so both live as long as one does.
    """

    name: str
    width: int
    dtype: str
    external: bool = False
    twin: Buffer | None = None

    @property
    def bytes(self) -> int:
        """Of one row, rounded up so that the next buffer is aligned."""
        return -(-self.width * ITEM_BYTES[self.dtype] // ALIGNMENT) * ALIGNMENT


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


@dataclass(eq=False)
class Statement:
    """A line of the step function.

    rows: the number that is split over the threads ("T", "R", "S", "T * 3") if each thread touches rows of its own share alone;
    None if some thread reads or writes another's. Statements with the same expression split alike. nodes: what it computes
    (part of), in the loop one of each layer; also: those that it computes with them, as many.
    """

    text: str
    reads: list[Buffer]
    writes: list[Buffer]
    rows: str | None = None
    comment: str = ""
    nodes: Sequence[Node] = ()
    also: Sequence[Node] = ()


class Plan:
    """How the statements of a step run on a team: where threads wait for each other, and where values lie.

    sections: statements before, in and after the loop over layers; all threads wait before the loop. repeated: statements that
    every thread runs for all rows rather than for its share, and `private` what they write, of which each has its own.
    waits: the statements before which all threads wait. offsets: bytes from the start of the memory that is shared, or that is
    a thread's own, for one row; a buffer that nothing touches has none. shared, own: bytes of a row in either.
    """

    def __init__(self, sections: Sequence[list[Statement]], repeated: Set[Statement] = frozenset()) -> None:
        self.sections, self.repeated = sections, repeated
        self.private = {buffer for statement in repeated for buffer in statement.writes}
        self.waits: set[Statement] = set()
        prologue, body, epilogue = sections
        self._place(prologue)
        self._place([*body, *body, *epilogue])
        lives = self._lives()
        self.offsets: dict[Buffer, int] = {}
        self.shared = self._arrange({b: life for b, life in lives.items() if b not in self.private})
        self.own = self._arrange({b: life for b, life in lives.items() if b in self.private})

    def _place(self, statements: list[Statement]) -> None:
        """Add the waits that statements in a row need."""
        pending: list[Statement] = []
        for statement in statements:
            if statement in self.waits or any(self._conflict(earlier, statement) for earlier in pending):
                self.waits.add(statement)
                pending = []
            pending.append(statement)

    def _conflict(self, earlier: Statement, later: Statement) -> bool:
        """Whether a thread may start `later` only when all have finished `earlier`: one writes what the other reads or writes.

        Buffers that share bytes do not count: those of one phase never do.
        """
        if earlier.rows is not None and earlier.rows == later.rows and self.repeated.isdisjoint((earlier, later)):
            return False
        (reads, writes), (then_reads, then_writes) = map(self._touched, (earlier, later))
        return not writes.isdisjoint(then_reads | then_writes) or not reads.isdisjoint(then_writes)

    def _touched(self, statement: Statement) -> tuple[set[Buffer], set[Buffer]]:
        """What is read and written of what threads share. Two buffers that change places are one."""
        reads, writes = ({min(b, b.twin or b, key=id) for b in group if b not in self.private}
                         for group in (statement.reads, statement.writes))  # fmt: skip
        return reads, writes

    def _lives(self) -> dict[Buffer, set[int]]:
        """When each buffer is needed: shared memory by phases, what lies between two waits; a thread's own by statements.

        What follows a layer's last wait runs beside what precedes the next layer's first, and what follows the loop.
        """
        prologue, body, epilogue = self.sections
        before, waits = sum(s in self.waits for s in prologue), sum(s in self.waits for s in body)
        head, phase, phases = before + 1, 0, []
        for statement in (*prologue, None, *body, *epilogue):
            phase += statement is None or statement in self.waits
            phases.append(head if phase == head + waits else phase)
        del phases[len(prologue)]
        uses: dict[Buffer, list[int]] = {}
        for place, statement in enumerate((*prologue, *body, *epilogue)):
            for buffer in (*statement.reads, *statement.writes):
                for each in (buffer, buffer.twin) if buffer.twin else (buffer,):
                    uses.setdefault(each, []).append(place)
        enter, leave = len(prologue), len(prologue) + len(body) - 1
        lives = {}
        for buffer, places in uses.items():
            if buffer.twin:
                places += [enter, leave]
            elif places[0] < enter <= places[-1]:  # a value from before the loop lives until its end
                places.append(leave)
            span = range(min(places), max(places) + 1)
            lives[buffer] = set(span) if buffer in self.private else {phases[place] for place in span}
        return lives

    def _arrange(self, lives: dict[Buffer, set[int]]) -> int:
        """Give every buffer an offset such that those needed together do not overlap; the bytes of a row that all need.

        Largest first, each at the lowest offset that is free during its life.
        """
        placed: list[Buffer] = []
        for buffer in sorted((b for b in lives if not b.external), key=lambda b: (-b.bytes, min(lives[b]))):
            offset = 0
            for other in placed:  # by offset
                start, end = self.offsets[other], self.offsets[other] + other.bytes
                if not lives[buffer].isdisjoint(lives[other]) and start < offset + buffer.bytes and offset < end:
                    offset = end
            self.offsets[buffer] = offset
            insort(placed, buffer, key=self.offsets.__getitem__)
        return max((self.offsets[b] + b.bytes for b in placed), default=ALIGNMENT)


def repeatable(statements: Sequence[Statement]) -> frozenset[Statement]:
    """The statements that every thread can run for all rows, writing to memory of its own: nothing that they write is the
    caller's or a cache, or is written by a statement that divides its work in another way."""
    repeated = {statement for statement in statements if statement.rows is not None}
    while True:
        shared = {buffer for statement in statements if statement not in repeated for buffer in statement.writes}
        shared |= {buffer.twin for buffer in shared if buffer.twin}
        kept = {s for s in repeated if shared.isdisjoint(s.writes) and not any(buffer.external for buffer in s.writes)}
        if kept == repeated:
            return frozenset(kept)
        repeated = kept
