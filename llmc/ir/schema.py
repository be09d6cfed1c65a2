"""What an op may be given, read off the signature of its reference semantics.

Positional parameters are operands, and their annotation says what they may be: `Tensor` a value or weight, `Tensor | float` a
number as well, `Tensor | None` left out. Keyword-only parameters are attributes of the type they are annotated with.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import Tensor
from torch.fx import Node

from llmc.errors import VerificationError
from llmc.ir.types import TensorType

CONTEXT = "context"
"""The keyword by which an op is told positions and rows; it is no attribute."""


@dataclass(frozen=True)
class Operand:
    """A positional parameter: whether it may be a number, and whether it may be left out."""

    name: str
    number: bool
    optional: bool


class Schema:
    """Operands and attributes of one op, by name."""

    def __init__(self, op: str, reference: Callable[..., Any]) -> None:
        self.op = op
        hints = get_type_hints(reference)
        parameters = inspect.signature(reference).parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
        keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in positional)
        self.operands = tuple(_operand(p.name, hints.get(p.name, Any)) for p in positional)
        self.required = sum(p.default is p.empty for p in positional)
        self.contextual = any(p.name == CONTEXT for p in keywords)
        self.attributes = {p.name: hints.get(p.name, Any) for p in keywords if p.name != CONTEXT}
        self.required_attributes = tuple(p.name for p in keywords if p.default is p.empty and p.name != CONTEXT)

    def check(self, operands: list[Any], attributes: Mapping[str, Any]) -> None:
        """Raise VerificationError unless each operand and attribute is of a kind that the op takes."""
        if not self.variadic and not self.required <= len(operands) <= len(self.operands):
            raise VerificationError(f"{self.op} takes {self.required} to {len(self.operands)} operands, got {len(operands)}")
        for i, value in enumerate(operands):
            operand = self.operands[min(i, len(self.operands) - 1)]
            if value is None and not operand.optional:
                raise VerificationError(f"{self.op} needs its operand '{operand.name}'")
            if value is not None and not isinstance(value, TensorType) and not (operand.number and _is_number(value)):
                wanted = "a value or a number" if operand.number else "a value"
                raise VerificationError(f"{self.op}: '{operand.name}' must be {wanted}, not {value!r}")
        for name, value in attributes.items():
            if name not in self.attributes:
                known = ", ".join(self.attributes) or "none"
                raise VerificationError(f"{self.op} has no attribute '{name}'; it has {known}")
            if not accepts(self.attributes[name], value):
                wanted = getattr(self.attributes[name], "__name__", str(self.attributes[name]))
                raise VerificationError(f"{self.op}: the attribute '{name}' must be of type {wanted}, not {value!r}")
        for name in self.required_attributes:
            if name not in attributes:
                raise VerificationError(f"{self.op} needs the attribute '{name}'")


def _operand(name: str, hint: Any) -> Operand:
    kinds = get_args(hint) or (hint,)
    if not set(kinds) <= {Tensor, float, type(None)}:
        raise TypeError(f"operand '{name}' must be annotated as Tensor, Tensor | float or Tensor | None, not {hint}")
    return Operand(name, float in kinds, type(None) in kinds)


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float)


def accepts(hint: Any, value: Any) -> bool:
    """Whether an attribute annotated with `hint` may be `value`. A whole number is a float, a bool is no number."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(accepts(one, value) for one in get_args(hint))
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        return isinstance(value, tuple) and all(accepts(inner, element) for element in value)
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return not isinstance(value, Node) if hint in (Any, object) else isinstance(value, hint)
