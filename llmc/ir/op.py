"""What an operation of the dialect is: declared once, with its meaning, its type rule and its cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmc.errors import VerificationError
from llmc.ir.schema import Schema
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
        self.schema = Schema(self.name, reference)
        self.contextual = self.schema.contextual

    def __call__(self, *args: Any, **attributes: Any) -> Any:
        for arg in args:
            if hasattr(arg, "apply_op"):
                return arg.apply_op(self, args, attributes)
        return self.reference(*args, **attributes)

    def infer(self, operands: list[Any], attributes: dict[str, Any]) -> TensorType:
        """Type of the result; operands are TensorTypes, numbers, or None for an optional one left out.

        Raises VerificationError if the operands or attributes break the schema or the op's rule.
        """
        self.schema.check(operands, attributes)
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


def require_float(name: str, *operands: Any) -> None:
    """Raise VerificationError if an operand is a value or weight of another dtype than float32."""
    for operand in operands:
        wrong = isinstance(operand, TensorType) and operand.dtype != "float32"
        require(not wrong, f"{name} computes with float32, got {operand}")
