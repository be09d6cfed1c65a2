"""Score expressions as C++."""

from __future__ import annotations

import math

from llmc.backends.cpu.names import comment
from llmc.ir.score import CAUSAL, SCORE, TRUE, ScoreExpr, distances, window

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "logical_and": "&&", "logical_or": "||",
}  # fmt: skip
CALLS = {"abs": "std::abs", "exp": "exp_", "log": "std::log", "tanh": "tanh_", "bfloat16": "bfloat16_"}


def number(value: float | int | bool) -> str:
    """A literal: whole numbers stay whole."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return "INT64_MIN" if value == -(2**63) else str(value)
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return f"{value!r}f" if "." in repr(value) or "e" in repr(value) else f"{value!r}.0f"


def expression(expr: ScoreExpr) -> str:
    """C++ over `s` (float), `h`, `q`, `k` (int)."""
    if expr.kind in ("score", "head", "q", "k"):
        return expr.kind[0]
    if expr.kind == "const":
        return number(expr.value)  # type: ignore[arg-type]
    if expr.kind == "per_head":
        values = ", ".join(number(float(v)) for v in expr.value)  # type: ignore[union-attr]
        return f"((const float[]){{{values}}})[h]"
    args = [expression(arg) for arg in expr.args]
    if expr.kind in INFIX:
        return f"({f' {INFIX[expr.kind]} '.join(args)})"
    if expr.kind == "div":
        return f"(float({args[0]}) / float({args[1]}))"
    if expr.kind in ("maximum", "minimum"):
        return f"{expr.kind}_({args[0]}, {args[1]})"
    if expr.kind == "where":
        return f"({args[0]} ? {args[1]} : {args[2]})"
    if expr.kind in ("neg", "logical_not"):
        return f"({'-' if expr.kind == 'neg' else '!'}{args[0]})"
    return f"{CALLS[expr.kind]}(float({args[0]}))"


LARGEST = 2**31 - 1
"""A position is at most this."""


def narrow(expr: ScoreExpr) -> bool:
    """Whether all whole numbers on the way to a value fit 32 bits, which makes vectors of them twice as long."""
    try:
        whole_range(expr)
    except OverflowError:
        return False
    return True


def whole_range(expr: ScoreExpr) -> tuple[int, int] | None:
    """Bounds of an expression that is a whole number, or None. Raises OverflowError if it, or a part, may exceed 32 bits."""
    bounds = [whole_range(arg) for arg in expr.args]
    numbers = [number for pair in bounds if pair for number in pair]
    if expr.kind in ("head", "q", "k"):
        return 0, LARGEST
    if expr.kind == "const" and isinstance(expr.value, int) and not isinstance(expr.value, bool):
        found = (expr.value, expr.value)
    elif not numbers or None in bounds or expr.kind not in ("add", "sub", "mul", "neg", "abs", "minimum", "maximum"):
        # Comparisons and logic have parts that were looked at; what a condition chooses from is no larger than they are.
        return (min(numbers), max(numbers)) if expr.kind == "where" and None not in bounds[1:] else None
    elif expr.kind == "add":
        found = (bounds[0][0] + bounds[1][0], bounds[0][1] + bounds[1][1])  # type: ignore[index]
    elif expr.kind == "sub":
        found = (bounds[0][0] - bounds[1][1], bounds[0][1] - bounds[1][0])  # type: ignore[index]
    elif expr.kind == "mul":
        products = [x * y for x in bounds[0] for y in bounds[1]]  # type: ignore[union-attr]
        found = (min(products), max(products))
    else:
        size = max(map(abs, numbers))
        found = (-size, size)
    if min(found) < -LARGEST or max(found) > LARGEST:
        raise OverflowError
    return found


def functor(name: str, score: ScoreExpr, admits: ScoreExpr) -> str:
    """The struct that attention takes: what is done to a score, which keys are admitted, the first and last that can be."""
    size, (least, _) = window(admits), distances(admits)
    first = "0" if size is None else f"q >= {size} ? q - {size - 1} : 0"
    last = "end - 1" if least == -math.inf else f"std::min<int64_t>(end - 1, q - ({int(least)}))"
    everything = admits in (CAUSAL, TRUE)
    admitted = "true" if everything else expression(admits)
    changed = "s" if score == SCORE else expression(score)
    index = "int" if narrow(score) and narrow(admits) else "int64_t"
    return "\n".join([
        f"// {comment(f'score: {score}; keys: {admits}')}",
        f"struct {name} {{",
        f"    static constexpr bool everything = {str(everything).lower()}, plain = {str(score == SCORE).lower()};",
        f"    static inline float score(float s, int h, {index} q, {index} k) {{ return {changed}; }}",
        f"    static inline bool admits(int h, {index} q, {index} k) {{ return {admitted}; }}",
        f"    static inline int first(int q) {{ return {first}; }}",
        f"    static inline int64_t last(int64_t q, int64_t end) {{ return {last}; }}",
        "};",
    ])
