"""Which cache holds the keys and values of an attention."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from llmc.backends.cpu.layers import Carried, LayerLoop
from llmc.backends.cpu.plan import Buffer
from llmc.ir import ops
from llmc.ir.program import type_of
from llmc.runtime.contract import BLOCK

Slot = tuple[Buffer, Buffer]
Pair = tuple[Node | Carried, ...]
TURNED: dict[str, tuple[int, ...]] = {"attention": (), "rope_attention": (3, 4)}
"""Of each op that reads a cache, the operands besides keys and values that what is in it depends on."""


FLOATS = {"float32": 1.0, "bfloat16": 0.5, "int8": 0.25}
"""Of an element, by how it is kept; in int8 each head of a position has a scale besides."""


def rounding(node: Node, operand: int) -> Node | None:
    """The node that rounds the keys or values of an attention, if what is in the cache is what it gives."""
    source: Any = node.args[operand]
    turned = operand == 1 and node.target is ops.rope_attention
    return source if source.target is ops.round_rows and not turned else None


def only_cached(node: Node) -> bool:
    """Whether nothing reads rounded rows but attentions that have them in a cache."""
    slots = [(user, slot) for user in node.users for slot, arg in enumerate(user.args) if arg is node]
    attentions = all(user.target in ops.ATTENTIONS.values() for user in node.users)
    return attentions and all(slot in (1, 2) and rounding(user, slot) is node for user, slot in slots)


def written_from(node: Node) -> tuple[int, ...]:
    """The operands of an attention that its cache is written from."""
    return (1, 2, *TURNED[node.target.name])  # type: ignore[union-attr]


class Caches:
    """Two caches, of keys and of values, for each pair of nodes that attentions read, and angles that turn keys; in the loop
    a layer has its own.

    A pair from before the loop is the same for all layers and has one slot; a pair that a layer is given by the one before it
    is written again by each.
    """

    def __init__(self) -> None:
        self.floats: list[int] = []
        """Of a block, for each cache in order."""
        self.widest = 0
        """Elements of the largest head of values."""
        self._slots: dict[Pair, Slot] = {}
        self._first = self._each = 0

    def take(self, node: Node, loop: LayerLoop | None) -> tuple[Slot, bool]:
        """The slot of an attention, and whether it is new: this attention is the first of the step to use it."""
        pair = self._pair(node, loop)
        if pair in self._slots:
            return self._slots[pair], False
        index = len(self.floats)
        self.floats += [self._block_floats(node, operand, loop) for operand in (1, 2)]
        self.widest = max(self.widest, type_of(node.args[2]).fixed[1])
        self._slots[pair] = self._slot(index, f"l * {self._each} + " if loop else "")
        return self._slots[pair], True

    def kept(self, node: Node, operand: int, loop: LayerLoop | None) -> str:
        """How keys or values are kept; what comes from another layer as floats."""
        if loop and node in loop and isinstance(loop.source(node, operand), Carried):
            return "float32"
        source = rounding(node, operand)
        return str(source.kwargs["to"]) if source else "float32"

    def _block_floats(self, node: Node, operand: int, loop: LayerLoop | None) -> int:
        kind, kept = type_of(node.args[operand]), self.kept(node, operand, loop)
        return int(BLOCK * kind.width * FLOATS[kept]) + (BLOCK * kind.fixed[0] if kept == "int8" else 0)

    def enter(self, loop: LayerLoop) -> None:
        """The slots taken from here on are of one layer."""
        attentions = [node for node in loop.layers[0] if node.target.name in TURNED]  # type: ignore[union-attr]
        self._first, self._each = len(self.floats), 2 * len({self._pair(n, loop) for n in attentions} - set(self._slots))

    def leave(self, loop: LayerLoop) -> None:
        """Repeat the slots of a layer for the others; what follows the loop may read those of the last."""
        counterparts = dict(zip(loop.layers[0], loop.layers[-1], strict=True))
        last = self._first + (len(loop.layers) - 1) * self._each
        kept: dict[Pair, Slot] = {}
        for number, (pair, slot) in enumerate(self._slots.items()):
            if 2 * number < self._first:
                kept[pair] = slot
            elif not any(isinstance(value, Carried) for value in pair):
                last_pair = tuple(counterparts.get(value, value) for value in pair)  # type: ignore[arg-type,union-attr]
                kept[last_pair] = self._slot(last + 2 * number - self._first, "")
        self.floats += self.floats[self._first :] * (len(loop.layers) - 1)
        self._slots = kept

    def _pair(self, node: Node, loop: LayerLoop | None) -> Pair:
        slots = written_from(node)
        if loop and node in loop:
            return tuple(loop.source(node, slot) for slot in slots)
        return tuple(node.args[slot] for slot in slots)  # type: ignore[misc]

    def _slot(self, index: int, layer: str) -> Slot:
        keys, values = (Buffer(f"step.caches[{layer}{index + i}]", 0, "float32", external=True) for i in range(2))
        return keys, values
