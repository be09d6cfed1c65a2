"""Loops over the fixed dimensions of a row: what every elementwise op, copy and reduction without a kernel becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmc.backends.cpu.plan import Location


@dataclass(frozen=True)
class Access:
    """How an operand is read within a row: array, elements from row to row (0: the same for all), a step for each loop, and
    the element that it starts at."""

    array: str
    row: int
    steps: tuple[int, ...]
    offset: int = 0


def contiguous_steps(sizes: Sequence[int]) -> tuple[int, ...]:
    """Elements from one index to the next in each dimension of a packed array."""
    steps, step = [], 1
    for size in reversed(sizes):
        steps.append(step)
        step *= size
    return tuple(reversed(steps))


def broadcast_steps(sizes: Sequence[int], target: Sequence[int]) -> tuple[int, ...]:
    """Steps of an operand of `sizes` in loops over `target`, aligned at the last dimension; 0 where it repeats."""
    own = contiguous_steps(sizes)
    missing = len(target) - len(sizes)
    return (*[0] * missing, *(0 if size == 1 and target[missing + i] != 1 else own[i] for i, size in enumerate(sizes)))


def located(location: Location, steps: Sequence[int], extra: int = 0) -> Access:
    """The access of a value."""
    return Access(location.buffer.name, location.stride, tuple(steps), location.offset + extra)


def collapse(sizes: Sequence[int], accesses: Sequence[Access]) -> tuple[list[int], list[list[int]]]:
    """Merge neighbouring loops that all operands walk without a gap; the sizes left, and the steps of each operand."""
    kept = [i for i, size in enumerate(sizes) if size != 1]
    left = [sizes[i] for i in kept]
    steps = [[access.steps[i] for i in kept] for access in accesses]
    i = len(left) - 2
    while i >= 0:
        if all(s[i] == s[i + 1] * left[i + 1] for s in steps):
            left[i] *= left.pop(i + 1)
            for s in steps:
                s.pop(i)
        i -= 1
    return left, steps


def element(access: Access, steps: Sequence[int], names: Sequence[str], row: str = "r") -> str:
    """`array[index]` for the loop variables."""
    terms = [row if access.row == 1 else f"{row} * {access.row}"] if access.row else []
    terms += [str(access.offset)] if access.offset else []
    terms += [name if step == 1 else f"{name} * {step}" for name, step in zip(names, steps, strict=True) if step]
    return f"{access.array}[{' + '.join(terms) or '0'}]"


def row_loop(count: str) -> str:
    """The head of the loop over this thread's share of the rows."""
    return f"for (int64_t r = team.start({count}); r < team.stop({count}); r++)"


def nest(sizes: Sequence[int], names: Sequence[str], body: str, indent: int = 1) -> str:
    """Loops around a body."""
    lines = []
    for depth, (size, name) in enumerate(zip(sizes, names, strict=True)):
        lines.append(f"{'    ' * (indent + depth)}for (int {name} = 0; {name} < {size}; {name}++)")
    lines.append(f"{'    ' * (indent + len(sizes))}{body}")
    return "\n".join(lines)


def map_rows(count: str, sizes: Sequence[int], out: Access, operands: Sequence[Access], expression: str) -> str:
    """`out = expression` for all elements of all rows; `{0}` in the expression is the first operand's element."""
    left, steps = collapse(sizes, [out, *operands])
    names = ["i", "j", "k"][: len(left)] if len(left) <= 3 else [f"i{place}" for place in range(len(left))]
    target, *read = [element(a, s, names) for a, s in zip((out, *operands), steps, strict=True)]
    return f"{row_loop(count)}\n{nest(left, names, f'{target} = {expression.format(*read)};')}"
