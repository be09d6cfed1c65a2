"""Finding the layers that repeat.

The computing nodes are read as a string of tokens (op, attributes, types, kinds of operands); the repeat that covers most of
it is found, and then proved: each node of a block must read what its counterpart of the block before read, one block later,
and weights that are one within a block must be one in every block.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from llmc.ir.identity import attribute_key, attributes_key
from llmc.ir.program import Program, type_of


@dataclass(frozen=True)
class Blocks:
    """Layers with the same code. `layers[i][j]` and `layers[i + 1][j]` are counterparts.

    `carried` maps an index j within a block to the node that takes the place of "j of the block before" for the first block:
    these values, and no others, go from block to block.
    """

    layers: tuple[tuple[Node, ...], ...]
    carried: dict[int, Node]

    @property
    def width(self) -> int:
        """Elements a token that go from block to block."""
        return sum(type_of(node).width for node in self.carried.values())


def find_blocks(program: Program) -> Blocks | None:
    """The repeat of at least two blocks that covers most nodes, cut where the fewest elements cross; None if there is none."""
    nodes = program.nodes
    tokens = _tokens(program, nodes)
    best: tuple[int, int, Blocks] | None = None
    for period in range(1, len(nodes) // 2 + 1):
        for start, length in _runs(tokens, period):
            covered = (length + period) // period * period
            if best and covered < best[0]:
                continue
            found = _best_cut(nodes, start, length + period, period)
            if found is None:
                continue
            covered = len(found.layers) * period
            if best is None or (covered, -found.width) > (best[0], -best[1]):
                best = covered, found.width, found
    return best[2] if best else None


def _tokens(program: Program, nodes: list[Node]) -> list[int]:
    numbers: dict[object, int] = {}

    def describe(arg: object) -> object:
        if isinstance(arg, Node):
            return type_of(arg), program.weight(arg).format if arg.op == "get_attr" else None
        return attribute_key(arg)

    found = []
    for node in nodes:
        key = (node.target, attributes_key(node), type_of(node), tuple(map(describe, node.args)))
        found.append(numbers.setdefault(key, len(numbers)))
    return found


def _runs(tokens: list[int], period: int) -> list[tuple[int, int]]:
    """Start and length of every stretch of at least `period` tokens that equal those one period later."""
    runs, start = [], 0
    for i in range(len(tokens) - period + 1):
        if i == len(tokens) - period or tokens[i] != tokens[i + period]:
            if i - start >= period:
                runs.append((start, i - start))
            start = i + 1
    return runs


def _best_cut(nodes: list[Node], start: int, length: int, period: int) -> Blocks | None:
    index = {node: i for i, node in enumerate(nodes)}
    for repeats in (length // period, length // period - 1):
        if repeats < 2:
            break
        slack = min(length - repeats * period, period)
        cuts = [_prove(nodes, index, s, period, repeats) for s in range(start, start + slack + 1)]
        valid = [cut for cut in cuts if cut is not None]
        if valid:
            return min(valid, key=lambda cut: (len(cut.carried), cut.width))
    return None


def _prove(nodes: list[Node], index: dict[Node, int], start: int, period: int, repeats: int) -> Blocks | None:
    stop = start + repeats * period
    carried: dict[int, Node] = {}
    shared: set[Node] = set()
    for i in range(start, start + period):
        for slot, first in enumerate(nodes[i].args):
            readings = [nodes[i + block * period].args[slot] for block in range(repeats)]
            if not isinstance(first, Node) or first.op == "get_attr":
                continue
            places = [index.get(reading, -1) if isinstance(reading, Node) else -1 for reading in readings]
            if places[0] >= start:  # computed in the same block
                if any(place != places[0] + block * period for block, place in enumerate(places)):
                    return None
            elif all(reading is first for reading in readings):
                shared.add(first)
            else:
                offset = places[1] - start
                if not 0 <= offset < period or carried.setdefault(offset, first) is not first:
                    return None
                if any(place != start + (block - 1) * period + offset for block, place in enumerate(places) if block):
                    return None
    # A value has one place within a block: it is what all blocks read, or where one stream starts, not two of these.
    if shared & set(carried.values()) or len(set(carried.values())) < len(carried):
        return None
    for i in range(start, stop - period):  # what leaves a block other than the last goes to the next one only
        for user in nodes[i].users:
            place = index.get(user, stop)
            block = (i - start) // period
            limit = start + (block + (2 if (i - start) % period in carried else 1)) * period
            if place >= limit:
                return None
    layers = tuple(tuple(nodes[start + block * period : start + (block + 1) * period]) for block in range(repeats))
    if any(_sharing(layer) != _sharing(layers[0]) for layer in layers[1:]):
        return None
    return Blocks(layers, dict(sorted(carried.items())))


def _sharing(layer: tuple[Node, ...]) -> list[int]:
    """For every reading of a weight in a block, which reading of the block was the first of the same weight."""
    first: dict[object, int] = {}
    weights = [arg.target for node in layer for arg in node.args if isinstance(arg, Node) and arg.op == "get_attr"]
    return [first.setdefault(name, i) for i, name in enumerate(weights)]
