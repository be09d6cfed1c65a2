"""Small programs for the tests of passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.fx import Node

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.program import Program
from llmc.ir.weights import Stored

VOCAB, WIDTH = 50, 24


class Maker(Editor):
    """An editor with an embedded input `x` and random weights at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.x = self.op(ops.embedding, self.input("input_ids"), self.random(VOCAB, WIDTH))

    def random(self, *shape: int, name: str = "w") -> Node:
        return self.weight(Stored(torch.randn(shape) / 3), name)

    def linear(self, x: Node, size: int, name: str = "w") -> Node:
        return self.op(ops.linear, x, self.random(size, int(x.meta["type"].shape[-1]), name=name))


def program(make: Callable[[Maker], Node]) -> Program:
    """The program whose output `make` computes."""
    torch.manual_seed(0)
    maker = Maker()
    result = make(maker)
    maker.outputs = ("logits",)
    maker.graph.output((result,))
    return maker.finish()
