"""The table of emitters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch.fx import Node

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator

Emit = Callable[["Generator", Node], None]
EMIT: dict[str, Emit] = {}
"""By name of op: adds the statements that compute a node."""


def emits(*names: str) -> Callable[[Emit], Emit]:
    """Enter a function into the table."""

    def enter(function: Emit) -> Emit:
        EMIT.update(dict.fromkeys(names, function))
        return function

    return enter


def given(node: Node, slot: int) -> bool:
    """Whether an optional operand is there."""
    return len(node.args) > slot and isinstance(node.args[slot], Node)
