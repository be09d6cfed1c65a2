"""Elementwise ops: an expression in loops over all elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from llmc.backends.cpu.emit.table import EMIT, Emit, emits
from llmc.backends.cpu.loops import Access, broadcast_steps, contiguous_steps, located, map_rows
from llmc.backends.cpu.plan import CTYPES
from llmc.backends.cpu.score import number
from llmc.ir.program import type_of
from llmc.ir.types import TensorType

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator
    from llmc.backends.cpu.plan import Location

INFIX = {"add": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
         "logical_and": "&&", "logical_or": "||"}  # fmt: skip
EXPRESSIONS = {
    **{name: f"{{0}} {sign} {{1}}" for name, sign in INFIX.items()},
    **{name: f"std::{name}({{0}})" for name in ("log", "sqrt", "sin", "cos", "abs")},
    **{name: f"{name}_({{0}})" for name in ("exp", "tanh", "erf", "sigmoid", "silu", "relu")},
    **{name: f"{name}_({{0}}, {{1}})" for name in ("maximum", "minimum")},
    "rsqrt": "1.0f / std::sqrt({0})",
    "neg": "-{0}",
    "logical_not": "!{0}",
    "div": "float({0}) / float({1})",
    "pow": "std::pow({0}, {1})",
    "where": "{0} ? {1} : {2}",
    "expand": "{0}",
}
ACTIVATIONS = {"silu": "silu_", "relu": "relu_", "gelu": "gelu_", "gelu_tanh": "gelu_tanh_", "sigmoid": "sigmoid_",
               "tanh": "tanh_"}  # fmt: skip


def elementwise(g: Generator, node: Node, expression: str, target: Location | None = None) -> None:
    """A loop over all elements, operands broadcast; `{0}` in the expression is the first."""
    result, target = type_of(node), target or g.new(node)
    accesses, template = operands(g, node, expression)
    out = located(target, contiguous_steps(result.fixed))
    text = map_rows(g.count(node), result.fixed, out, accesses, template)
    g.add(node, text, target, rows=g.count(node))


def operands(g: Generator, node: Node, expression: str) -> tuple[list[Access], str]:
    """The operands that are no numbers, in loops over the result, and the expression with the numbers filled in."""
    result = type_of(node)
    accesses: list[Access] = []
    texts: list[str] = []
    for slot, arg in enumerate(node.args):
        if isinstance(arg, Node):
            texts.append(f"{{{len(accesses)}}}")
            accesses.append(access(g, node, slot, result))
        else:
            value = float(arg) if result.dtype == "float32" and not isinstance(arg, bool) else arg  # type: ignore[arg-type]
            texts.append(number(value))  # type: ignore[arg-type]
    return accesses, expression.format(*texts)


def access(g: Generator, node: Node, slot: int, result: TensorType) -> Access:
    """An operand in loops over the result."""
    arg = node.args[slot]
    steps = broadcast_steps(type_of(arg).fixed, result.fixed)
    if isinstance(arg, Node) and arg.op == "get_attr":
        return Access(g.plain(node, slot), 0, steps)
    return located(g.read(node, slot), steps)


def _simple(expression: str) -> Emit:
    return lambda g, node: elementwise(g, node, expression)


for _name, _expression in EXPRESSIONS.items():
    EMIT[_name] = _simple(_expression)


@emits("gelu")
def _gelu(g: Generator, node: Node) -> None:
    elementwise(g, node, activated(node))


@emits("cast")
def _cast(g: Generator, node: Node) -> None:
    kind = str(node.kwargs["dtype"])
    elementwise(g, node, "{0} != 0" if kind == "bool" else f"{CTYPES[kind]}({{0}})")


@emits("gated")
def _gated(g: Generator, node: Node) -> None:
    elementwise(g, node, activated(node))


def activated(node: Node) -> str:
    """The expression of an activation, gated or not."""
    name = node.target.name.removeprefix("rounded_")  # type: ignore[union-attr]
    if name == "gated":
        return f"{ACTIVATIONS[str(node.kwargs['activation'])]}({{0}}) * {{1}}"
    if name == "gelu":
        return "gelu_tanh_({0})" if node.kwargs["approximate"] == "tanh" else "gelu_({0})"
    return f"{ACTIVATIONS[name]}({{0}})"
