"""What an operation of the dialect is: declared once, with its meaning, its type rule and its cost."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llmc.errors import VerificationError
from llmc.ir.types import TensorType

OPS: dict[str, Op] = {}
"""Every operation of the dialect by name."""


class Op:
    """An operation: `linear(x, weight, bias)`.

    Calling it with tensors runs the reference semantics; calling it with patterns (`llmc.ir.pattern`) makes a pattern; as
    the target of a `call_function` node it is the operation of that node. Tensor operands are the positional parameters of
    the reference function, attributes its keyword-only ones.
    """

    def __init__(
        self,
        reference: Callable[..., Any],
        infer: Callable[..., TensorType],
        flops: Callable[..., int] | None = None,
        commutative: bool = False,
    ) -> None:
        self.reference = reference
        self.name = self.__name__ = self.__qualname__ = reference.__name__.rstrip("_")
        self.__module__ = reference.__module__
        self.__doc__ = reference.__doc__
        self._infer = infer
        self._flops = flops
        self.commutative = commutative
        parameters = inspect.signature(reference).parameters.values()
        positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.operands = tuple(p.name for p in positional)
        self.required = sum(p.default is p.empty for p in positional)
        keywords = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
        self.contextual = "context" in keywords
        self.attributes = tuple(name for name in keywords if name != "context")
        self.required_attributes = tuple(
            name for name in self.attributes if keywords[name].default is inspect.Parameter.empty
        )

    def __call__(self, *args: Any, **attributes: Any) -> Any:
        for arg in args:
            if hasattr(arg, "as_pattern_operand"):
                return arg.as_pattern_operand(self, args, attributes)
        return self.reference(*args, **attributes)

    def infer(self, operands: list[Any], attributes: dict[str, Any]) -> TensorType:
        """Type of the result; operands are TensorTypes, numbers, or None for an optional one left out.

        Raises VerificationError if the operands or attributes break the schema or the op's rule.
        """
        if not self.variadic and not self.required <= len(operands) <= len(self.operands):
            raise VerificationError(f"{self.name} takes {self.required} to {len(self.operands)} operands, got {len(operands)}")
        for name in attributes:
            if name not in self.attributes:
                raise VerificationError(f"{self.name} has no attribute '{name}'; it has {', '.join(self.attributes) or 'none'}")
        for name in self.required_attributes:
            if name not in attributes:
                raise VerificationError(f"{self.name} needs the attribute '{name}'")
        return self._infer(*operands, **attributes)

    def flops(self, operands: list[Any], attributes: dict[str, Any], result: TensorType) -> int:
        """Floating-point operations for one token (or one row): products and sums counted apart.

        What depends on the length of the context (attention) is counted per attended position.
        """
        return result.width if self._flops is None else self._flops(operands, attributes, result)

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Callable[[str], Op], tuple[str]]:
        return lookup, (self.name,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Op:
        return self


def lookup(name: str) -> Op:
    """The op called `name`. Raises VerificationError if the dialect has none."""
    import llmc.ir.ops  # noqa: F401  # declares the dialect, which whoever reads a file may not have done

    if name not in OPS:
        raise VerificationError(f"the dialect has no op '{name}'")
    return OPS[name]


def op(
    infer: Callable[..., TensorType], flops: Callable[..., int] | None = None, commutative: bool = False
) -> Callable[[Callable[..., Any]], Op]:
    """Declare the decorated function, the op's reference semantics, as an op of the dialect."""

    def declare(reference: Callable[..., Any]) -> Op:
        made = Op(reference, infer, flops, commutative)
        if made.name in OPS:
            raise ValueError(f"op '{made.name}' is declared twice")
        return OPS.setdefault(made.name, made)

    return declare


def require(condition: bool, message: str) -> None:
    """Raise VerificationError(message) unless the condition holds."""
    if not condition:
        raise VerificationError(message)
