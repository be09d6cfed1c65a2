"""What a step has to do, node by node: bytes to read from memory, and arithmetic by the kind of its products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmc.runtime.contract import BLOCK

if TYPE_CHECKING:
    from torch.fx import Node

    from llmc.evaluate.limits import Limits
    from llmc.ir.program import Program

KINDS = ("int8", "bfloat16", "float32")

READ = "read"
"""The limit of what takes longer to read than to compute."""


@dataclass(frozen=True)
class Work:
    """Bytes read from memory, and operations by the kind of their product (`KINDS`)."""

    bytes: float
    operations: dict[str, float]

    def __add__(self, other: Work) -> Work:
        return Work(self.bytes + other.bytes, {kind: self.operations[kind] + other.operations[kind] for kind in KINDS})

    @property
    def flops(self) -> float:
        """Operations of all kinds."""
        return sum(self.operations.values())

    def seconds(self, limits: Limits) -> float:
        """At least so long, within the limits."""
        return max(self._bounds(limits).values())

    def binding(self, limits: Limits) -> str:
        """What sets that bound: READ, or the kind of the products that take longest; empty if there is nothing to do."""
        bounds = self._bounds(limits)
        if not any(bounds.values()):
            return ""
        kind = max(KINDS, key=lambda kind: self.operations[kind] / limits.rate(kind))
        return READ if bounds[READ] >= bounds["compute"] else kind

    def _bounds(self, limits: Limits) -> dict[str, float]:
        compute = sum(count / limits.rate(kind) for kind, count in self.operations.items() if count)
        return {READ: self.bytes / limits.rates["read"].best, "compute": compute}


NOTHING = Work(0.0, dict.fromkeys(KINDS, 0.0))


@dataclass(frozen=True)
class Step:
    """A step of one sequence: `tokens` after `past` positions in the cache; of `rows` of them the outputs are asked for."""

    tokens: int
    rows: int = 1
    past: int = 0


def step_work(program: Program, block_bytes: int, step: Step) -> Work:
    """Of all nodes. block_bytes: `Executable.block_bytes`."""
    return sum((work for _, work in works(program, block_bytes, step)), NOTHING)


def works(program: Program, block_bytes: int, step: Step) -> Iterator[tuple[Node, Work]]:
    """Each node and what it has to do: weights once a step, of a table and of experts what the tokens choose, of the cache what
    an attention may look at."""
    from llmc.ir.cost import cache_bytes_per_token, flops_of, weight_bytes
    from llmc.ir.ops import ATTENTIONS
    from llmc.ir.program import type_of

    attended = _Attended(step)
    stored = block_bytes / BLOCK / max(cache_bytes_per_token(program, 1), 1)  # bytes of an element
    counts = {"T": step.tokens, "R": step.rows, "S": 1}
    for node in program.nodes:
        name = node.target.name  # type: ignore[union-attr]
        times = counts["T" if name == "pool" else str(type_of(node).rows)]
        alone, each = flops_of(node)
        operations, read = float(alone * times), float(weight_bytes(program, node, times))
        if name in ATTENTIONS:
            pairs, positions = attended(node)
            operations += each * pairs
            read += positions * stored * sum(type_of(value).width for value in node.args[1:3])
        yield node, Work(read, {kind: operations if kind == kind_of(node) else 0.0 for kind in KINDS})


def kind_of(node: Any) -> str:
    """What the products of a node are made of: its input is rounded to that."""
    kind = node.kwargs.get("activations", "float32")
    return kind if kind in KINDS else "float32"


class _Attended:
    """Pairs of query and key that an attention admits in a step (the mean over its heads), and keys that any query does."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._known: dict[str, tuple[float, int]] = {}

    def __call__(self, node: Node) -> tuple[float, int]:
        admits = node.kwargs["admits"]
        if str(admits) not in self._known:
            self._known[str(admits)] = self._count(node, admits)
        return self._known[str(admits)]

    def _count(self, node: Node, admits: Any) -> tuple[float, int]:
        import torch

        from llmc.ir.program import type_of
        from llmc.ir.score import ScoreContext

        heads, total = type_of(node).fixed[0], self._step.past + self._step.tokens
        head, keys = torch.arange(heads).view(-1, 1, 1), torch.arange(total).view(1, 1, -1)
        pairs, seen = 0.0, torch.zeros(total, dtype=torch.bool)
        for first in range(self._step.past, total, 64):  # a table of all pairs may be large
            queries = torch.arange(first, min(first + 64, total)).view(1, -1, 1)
            found = admits.evaluate(ScoreContext(None, head, queries, keys))
            found = found.expand(found.shape[0] if found.ndim == 3 else 1, queries.shape[1], total)
            pairs += float(found.sum()) / found.shape[0]
            seen |= found.flatten(0, 1).any(0)
        return pairs, int(seen.sum())
