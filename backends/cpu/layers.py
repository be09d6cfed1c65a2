"""The loop over layers: what an operand of the first layer's code stands for in all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from llmc.backends.cpu.plan import Buffer, Location
from llmc.ir.blocks import Blocks
from llmc.ir.program import origin_of


@dataclass(frozen=True)
class Carried:
    """Memory of a value that goes from layer to layer: what a layer is given, and what it leaves to the next."""

    now: Buffer
    later: Buffer


class LayerLoop:
    """Code is emitted for the nodes of the first layer; each of their operands is looked up here, by node and place.

    The same node may be given to the first layer in two roles (the embedding as the first residual stream, and again as a
    value that every layer reads), so a node alone does not say which. What `llmc.ir.blocks` proved is checked again: an operand
    that is not the same thing in every layer raises AssertionError rather than becoming wrong code.
    """

    def __init__(self, blocks: Blocks, carried: dict[int, Carried]) -> None:
        self.layers, self.carried = blocks.layers, carried
        self.entering = blocks.carried
        self._index = {node: i for i, node in enumerate(blocks.layers[0])}

    def __contains__(self, node: Node) -> bool:
        return node in self._index

    def counterparts(self, node: Node) -> list[Node]:
        """The node in each layer."""
        return [layer[self._index[node]] for layer in self.layers]

    def readings(self, node: Node, slot: int) -> list[Any]:
        """The operand in each layer."""
        return [each.args[slot] for each in self.counterparts(node)]

    def weights(self, node: Node, slot: int) -> list[str]:
        """The weight that each layer reads."""
        readings = self.readings(node, slot)
        if any(reading.op != "get_attr" for reading in readings):
            raise AssertionError(f"{node}, operand {slot}: a weight in some layers only: {readings}")
        return [str(reading.target) for reading in readings]

    def source(self, node: Node, slot: int) -> Node | Carried:
        """A value of the same layer, one from before the loop that all layers share, or one carried from layer to layer."""
        readings = self.readings(node, slot)
        first, second = readings[0], readings[1]
        if first in self._index:
            counterparts: list[Any] = [layer[self._index[first]] for layer in self.layers]
        elif all(reading is first for reading in readings):
            return first
        else:
            index = self.layers[0].index(second) if second in self._index else -1
            if self.entering.get(index) is not first:
                raise AssertionError(f"{node}, operand {slot}: neither shared nor carried: {readings}")
            counterparts = [first, *(layer[index] for layer in self.layers[:-1])]
        if readings != counterparts:
            raise AssertionError(f"{node}, operand {slot}: not the same value in every layer: {readings}")
        return first if first in self._index else self.carried[index]

    def shared(self, node: Node, slot: int) -> bool:
        """Whether an operand is one value from before the loop for all layers."""
        source = self.source(node, slot)
        return isinstance(source, Node) and source not in self._index

    def after(self, location: Location) -> Location:
        """Where a value of the last layer is when the loop has ended, with the names swapped once more."""
        for pair in self.carried.values():
            if location.buffer in (pair.now, pair.later):
                other = pair.later if location.buffer is pair.now else pair.now
                return Location(other, location.offset, location.width)
        return location

    def module(self, node: Node) -> str:
        """The node's module path with `*` where layers differ."""
        here, other = (origin_of(layer[self._index[node]]).module.split(".") for layer in self.layers[:2])
        if len(here) != len(other):
            return ".".join(here)
        return ".".join(a if a == b else "*" for a, b in zip(here, other, strict=True))
