"""Patterns: ops called with `ANY.x`, `WEIGHT.w` and `SCALAR.s` in place of values.

    mul(ANY.x, rsqrt(add(mean(mul(ANY.x, ANY.x), dims=LAST, keepdim=True), SCALAR.eps)))

A name used twice must stand for the same thing both times. Commutative ops match in both orders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from llmc.ir.op import Op

Bindings = dict[str, Any]


class Pattern(ABC):
    """Something that matches an operand. `a | b` matches what either does."""

    def apply_op(self, op: Op, operands: tuple[Any, ...], attributes: dict[str, Any]) -> Pattern:
        """Called by an op that is given a pattern: the pattern of that op."""
        return OpPattern(op, operands, {key: tuple(v) if isinstance(v, list) else v for key, v in attributes.items()})

    def __or__(self, other: Pattern) -> Pattern:
        return Either((self, other))

    @abstractmethod
    def match(self, value: Any, bound: Bindings, inner: list[Node]) -> Iterator[tuple[Bindings, list[Node]]]:
        """Every way in which `value` matches: what names stand for, and the nodes of the ops passed through."""


@dataclass(frozen=True)
class Hole(Pattern):
    """Anything that is accepted, under a name."""

    name: str
    accepts: Callable[[Any], bool]

    def match(self, value: Any, bound: Bindings, inner: list[Node]) -> Iterator[tuple[Bindings, list[Node]]]:
        if not self.accepts(value):
            return
        if self.name not in bound:
            yield {**bound, self.name: value}, inner
        elif bound[self.name] is value or (not isinstance(value, Node) and bound[self.name] == value):
            yield bound, inner


class Holes:
    """`ANY.x` makes the hole named x."""

    def __init__(self, accepts: Callable[[Any], bool]) -> None:
        self._accepts = accepts

    def __getattr__(self, name: str) -> Hole:
        return Hole(name, self._accepts)


ANY = Holes(lambda value: isinstance(value, Node))
"""Any value."""

WEIGHT = Holes(lambda value: isinstance(value, Node) and value.op == "get_attr")
"""A weight."""

SCALAR = Holes(lambda value: isinstance(value, int | float) and not isinstance(value, bool))
"""A number, as an operand or an attribute."""


@dataclass(frozen=True)
class Either(Pattern):
    """What any of several patterns matches."""

    choices: tuple[Pattern, ...]

    def match(self, value: Any, bound: Bindings, inner: list[Node]) -> Iterator[tuple[Bindings, list[Node]]]:
        for choice in self.choices:
            yield from choice.match(value, bound, inner)


@dataclass(frozen=True)
class OpPattern(Pattern):
    """A node of an op whose operands and named attributes match."""

    op: Op
    operands: tuple[Any, ...]
    attributes: dict[str, Any]

    def match(self, value: Any, bound: Bindings, inner: list[Node]) -> Iterator[tuple[Bindings, list[Node]]]:
        if not (isinstance(value, Node) and value.op == "call_function" and value.target is self.op):
            return
        wanted = list(self.operands)
        while wanted and wanted[-1] is None:
            wanted.pop()
        if len(value.args) != len(wanted):
            return
        orders = [tuple(value.args)]
        if self.op.commutative:
            orders.append(tuple(reversed(value.args)))
        pairs = [(pattern, value.kwargs.get(key)) for key, pattern in self.attributes.items()]
        for order in orders:
            yield from _match_all([*pairs, *zip(wanted, order, strict=True)], bound, [*inner, value])


def _match_all(pairs: list[tuple[Any, Any]], bound: Bindings, inner: list[Node]) -> Iterator[tuple[Bindings, list[Node]]]:
    if not pairs:
        yield bound, inner
        return
    (pattern, value), rest = pairs[0], pairs[1:]
    if isinstance(pattern, Pattern):
        for found, nodes in pattern.match(value, bound, inner):
            yield from _match_all(rest, found, nodes)
    elif (not isinstance(value, Node) and value is not None and pattern == value) or (pattern is None and value is None):
        yield from _match_all(rest, bound, inner)


@dataclass(frozen=True)
class Match:
    """One place where a pattern holds: its root node, what the names stand for, and the nodes of its ops."""

    root: Node
    bound: Bindings
    nodes: tuple[Node, ...]

    def __getitem__(self, name: str) -> Any:
        return self.bound[name]

    def get(self, name: str) -> Any:
        """What a name stands for, or None if the alternative that matched does not have it."""
        return self.bound.get(name)


def matches(pattern: Pattern, node: Node) -> Iterator[Match]:
    """Every way in which the pattern matches at a node."""
    for bound, nodes in pattern.match(node, {}, []):
        yield Match(node, bound, tuple(dict.fromkeys(nodes)))
