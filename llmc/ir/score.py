"""Score expressions: what an attention does to a score, and which keys it admits, as small expressions.

Their variables are the score, the index of the head and the absolute positions of query and key. Masks, windows, soft
capping and position biases are all of this form; backends compile the expression and recognise known forms by
`implies_causal` and `window`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmc.errors import VerificationError

Value = float | int | bool | tuple[float, ...]


@dataclass(frozen=True)
class ScoreContext:
    """What the variables stand for: tensors that broadcast to `[heads, queries, keys]`; positions and heads are int64."""

    score: Tensor | None
    head: Tensor
    q: Tensor
    k: Tensor


@dataclass(frozen=True)
class ScoreExpr:
    """A node of the expression: a variable, a constant (`value`), one number a head (`per_head`), or a function of others."""

    kind: str
    args: tuple[ScoreExpr, ...] = ()
    value: Value | None = None

    def evaluate(self, context: ScoreContext) -> Tensor:
        """The values for every head, query and key, in torch."""
        if self.kind in VARIABLES:
            return getattr(context, self.kind)
        # Numbers have the precision of the score, so that whole positions they meet are not made doubles.
        dtype = torch.get_default_dtype() if context.score is None else context.score.dtype
        if self.kind == "const":
            return torch.tensor(self.value, dtype=dtype if isinstance(self.value, float) else None, device=context.q.device)
        if self.kind == "per_head":
            return torch.tensor(self.value, dtype=dtype, device=context.q.device)[context.head]
        return FUNCTIONS[self.kind][1](*(arg.evaluate(context) for arg in self.args))

    def __str__(self) -> str:
        if self.kind in VARIABLES:
            return self.kind
        if self.kind == "const":
            return str(self.value)
        if self.kind == "per_head":
            return "per_head[head]"
        sign = FUNCTIONS[self.kind][0]
        inner = [f"({arg})" if arg.args and not FUNCTIONS[arg.kind][0].isidentifier() else str(arg) for arg in self.args]
        return f" {sign} ".join(inner) if not sign.isidentifier() else f"{sign}({', '.join(map(str, self.args))})"

    def to_json(self) -> list[Any]:
        """A list of kind and arguments, or kind and value."""
        if self.kind in ("const", "per_head"):
            return [self.kind, list(self.value) if isinstance(self.value, tuple) else self.value]
        return [self.kind, *(arg.to_json() for arg in self.args)]

    @staticmethod
    def from_json(data: Any) -> ScoreExpr:
        """The expression of `to_json`. Raises VerificationError for anything else."""
        if not isinstance(data, list) or not data or not isinstance(data[0], str):
            raise VerificationError(f"not a score expression: {data!r}")
        kind, *rest = data
        if kind == "const" and len(rest) == 1 and isinstance(rest[0], bool | int | float):
            return const(rest[0])
        if kind == "per_head" and len(rest) == 1 and isinstance(rest[0], list):
            return per_head(rest[0])
        if kind in VARIABLES and not rest:
            return ScoreExpr(kind)
        return apply(kind, *(ScoreExpr.from_json(arg) for arg in rest))


VARIABLES = ("score", "head", "q", "k")
SCORE, HEAD, Q, K = (ScoreExpr(name) for name in VARIABLES)

def rounded(x: Tensor) -> Tensor:
    """Each number as the bfloat16 nearest to it, in the precision of x; whole numbers in the default one."""
    return x.to(torch.bfloat16).to(x.dtype if x.is_floating_point() else torch.get_default_dtype())


FUNCTIONS: dict[str, tuple[str, Callable[..., Tensor], int]] = {
    "add": ("+", torch.add, 2),
    "sub": ("-", torch.sub, 2),
    "mul": ("*", torch.mul, 2),
    "div": ("/", torch.div, 2),
    "neg": ("neg", torch.neg, 1),
    "abs": ("abs", torch.abs, 1),
    "exp": ("exp", torch.exp, 1),
    "log": ("log", torch.log, 1),
    "tanh": ("tanh", torch.tanh, 1),
    "maximum": ("max", torch.maximum, 2),
    "minimum": ("min", torch.minimum, 2),
    "eq": ("==", torch.eq, 2),
    "ne": ("!=", torch.ne, 2),
    "lt": ("<", torch.lt, 2),
    "le": ("<=", torch.le, 2),
    "gt": (">", torch.gt, 2),
    "ge": (">=", torch.ge, 2),
    "logical_and": ("&", torch.logical_and, 2),
    "logical_or": ("|", torch.logical_or, 2),
    "logical_not": ("not", torch.logical_not, 1),
    "where": ("where", torch.where, 3),
    "bfloat16": ("bfloat16", rounded, 1),
}
"""Sign in print, meaning, and number of arguments of each function."""


def const(value: float | int | bool) -> ScoreExpr:
    """A number that is the same everywhere."""
    return ScoreExpr("const", value=value)


def per_head(values: list[float] | tuple[float, ...]) -> ScoreExpr:
    """One number a head, such as the slopes of a linear position bias (Press et al. 2022)."""
    return ScoreExpr("per_head", value=tuple(float(value) for value in values))


def apply(kind: str, *args: ScoreExpr) -> ScoreExpr:
    """A function of other expressions, with true and false simplified away. Raises VerificationError if there is none."""
    if kind not in FUNCTIONS or len(args) != FUNCTIONS[kind][2]:
        raise VerificationError(f"score expressions have no function '{kind}' of {len(args)} arguments")
    if kind == "logical_and":
        kept = tuple(dict.fromkeys(arg for arg in args if arg != TRUE))
        return FALSE if FALSE in args else TRUE if not kept else kept[0] if len(kept) == 1 else ScoreExpr(kind, kept)
    if kind == "logical_or":
        kept = tuple(dict.fromkeys(arg for arg in args if arg != FALSE))
        return TRUE if TRUE in args else FALSE if not kept else kept[0] if len(kept) == 1 else ScoreExpr(kind, kept)
    if kind in ("ge", "gt") and args[0] in (Q, K) and args[1].kind == "const":  # positions begin at 0
        return TRUE if FUNCTIONS[kind][1](torch.tensor(0), torch.tensor(args[1].value)) else ScoreExpr(kind, args)
    return ScoreExpr(kind, args)


TRUE, FALSE = const(True), const(False)
CAUSAL = apply("le", K, Q)
"""Each query attends to its own and earlier positions."""


def linear_form(expr: ScoreExpr) -> tuple[float, float, float] | None:
    """`(a, b, c)` if the expression is `a * q + b * k + c`, else None."""
    if expr.kind in ("q", "k"):
        return (1, 0, 0) if expr.kind == "q" else (0, 1, 0)
    if expr.kind == "const":
        return (0, 0, expr.value)  # type: ignore[return-value]
    forms = [linear_form(arg) for arg in expr.args]
    if not forms or None in forms:
        return None
    first = forms[0]
    if expr.kind == "neg":
        return (-first[0], -first[1], -first[2])  # type: ignore[index]
    if expr.kind in ("add", "sub"):
        sign = 1 if expr.kind == "add" else -1
        return tuple(x + sign * y for x, y in zip(*forms, strict=True))  # type: ignore[arg-type,return-value]
    return None


UNBOUNDED, NOTHING = (-math.inf, math.inf), (math.inf, -math.inf)
"""Bounds of which every distance is within, and of which none is."""

ROUNDING = 0.25
"""What rounding a position plus a fraction to float32 is off by at most, for positions below two million."""


def distances(admits: ScoreExpr) -> tuple[float, float]:
    """Proven bounds (least, greatest) of `q - k` over the admitted pairs; infinite where nothing is proven.

    NOTHING, whose least is above its greatest, if no pair is admitted.
    """
    if admits == FALSE:
        return NOTHING
    if admits.kind in ("logical_and", "logical_or"):
        lows, highs = zip(*(distances(arg) for arg in admits.args), strict=True)
        bounds = (max(lows), min(highs)) if admits.kind == "logical_and" else (min(lows), max(highs))
        return bounds if bounds[0] <= bounds[1] else NOTHING
    return _compared(admits) if admits.kind in ("le", "lt", "ge", "gt", "eq") else UNBOUNDED


def _compared(admits: ScoreExpr) -> tuple[float, float]:
    """The bounds that one comparison sets: `q - k` is whole, so that those next to a fraction are the whole numbers beside."""
    left, right = (linear_form(arg) for arg in admits.args)
    if left is None or right is None:
        return UNBOUNDED
    a, b, c = (x - y for x, y in zip(left, right, strict=True))  # a q + b k + c (sign) 0
    if a + b != 0 or abs(a) != 1 or not math.isfinite(c):
        return UNBOUNDED
    limit, slack = -c * a, ROUNDING if _has_fractions(admits) else 0
    strict = 1 if admits.kind in ("lt", "gt") and not slack else 0
    low, high = math.ceil(limit - slack) + strict, math.floor(limit + slack) - strict
    if admits.kind == "eq":
        return (low, high) if low <= high else NOTHING
    above = (admits.kind in ("ge", "gt")) == (a == 1)  # whether the comparison bounds q - k from below
    return (low, math.inf) if above else (-math.inf, high)


def _has_fractions(expr: ScoreExpr) -> bool:
    return (isinstance(expr.value, float) and not expr.value.is_integer()) or any(map(_has_fractions, expr.args))


def implies_causal(admits: ScoreExpr) -> bool:
    """Whether it is proven that no admitted key stands after its query."""
    return distances(admits)[0] >= 0


def window(admits: ScoreExpr) -> int | None:
    """The least w, 1 or more, for which it is proven that every admitted key has `q - k < w`, or None."""
    high = distances(admits)[1]
    return None if high == math.inf else int(max(high, 0)) + 1
