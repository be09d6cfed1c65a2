"""Ops that only stand for others: one declaration, from which type rule, cost and decomposition follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from llmc.ir.op import OPS, Op
from llmc.ir.schema import CONTEXT
from llmc.ir.types import TensorType

Make = Callable[..., Any]
"""`make(op, *operands, **attributes)`: what an op gives for operands of some kind, nodes of a graph or types."""


class FusedOp(Op):
    """An op whose reference semantics call ops of the dialect and nothing else.

    With tensors they compute; with types they are its type rule and its cost; with nodes they write it out in those ops, which
    is what a backend without code for it is given (`llmc.ir.decompose`).
    """

    def __init__(self, reference: Callable[..., Any]) -> None:
        super().__init__(reference, self._type, self._cost)

    def write_out(self, make: Make, operands: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        """The result of calling `make` for each op that it stands for, in order."""
        given = [Term(o, make) if isinstance(o, Node | TensorType) else o for o in operands]
        context = {CONTEXT: None} if self.contextual else {}
        return self.reference(*given, **attributes, **context).value

    def _type(self, *operands: Any, **attributes: Any) -> TensorType:
        return self.write_out(lambda op, *given, **rest: op.infer(list(given), rest), operands, attributes)

    def _cost(self, operands: list[Any], attributes: dict[str, Any], result: TensorType) -> int:
        total = 0

        def count(op: Op, *given: Any, **rest: Any) -> TensorType:
            nonlocal total
            kind = op.infer(list(given), rest)
            total += op.flops(list(given), rest, kind)
            return kind

        self.write_out(count, operands, attributes)
        return total


@dataclass(frozen=True)
class Term:
    """An operand, or what was made of operands, while a fused op is written out."""

    value: Any
    make: Make

    @property
    def shape(self) -> tuple[int | str, ...]:
        """Of the value, as a tensor has it: tokens first."""
        kind: TensorType = self.value.meta["type"] if isinstance(self.value, Node) else self.value
        return kind.shape

    def apply_op(self, op: Op, operands: tuple[Any, ...], attributes: dict[str, Any]) -> Term:
        """Called by an op that is given a term."""
        given = [o.value if isinstance(o, Term) else o for o in operands]
        kept = {name: value for name, value in attributes.items() if name != CONTEXT}
        return Term(self.make(op, *given, **kept), self.make)


def fused(reference: Callable[..., Any]) -> FusedOp:
    """Declare the decorated function as an op that stands for those that it calls."""
    made = FusedOp(reference)
    if made.name in OPS:
        raise ValueError(f"op '{made.name}' is declared twice")
    OPS[made.name] = made
    return made
