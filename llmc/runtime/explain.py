"""What the passes did to a model, and what a token of it costs, as plain text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmc.ir.program import Program
    from llmc.runtime.contract import Executable
    from llmc.runtime.info import ModelInfo

WIDTH = 110

PROMPT = 256
"""Tokens before those that a speed is predicted for."""

MOST_OPS = 4
"""Ops whose arithmetic is told apart."""


def explain(info: ModelInfo, program: Program, records: Sequence[Any], executable: Executable) -> str:
    """A table of the passes, what they left alone and noted, the bytes and FLOPs of the program, and what they predict."""
    from rich.console import Console

    console = Console(record=True, width=WIDTH, file=io.StringIO(), markup=False, highlight=False, emoji=False)
    recipe = f" with recipe {info.recipe}" if info.recipe else ""
    console.print(f"{info.name}{recipe} for backend {info.backend}")
    for note in info.notes:
        console.print(f"capture: {note}")
    if records:
        console.print(_table(records))
    for record in records:
        for line in _remarks(record):
            console.print(f"{record.key}: {line}")
    console.print(f"context            {info.max_context} positions")
    for line in [*_costs(program, executable), *_predictions(info, program, executable)]:
        console.print(line)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


def _table(records: Sequence[Any]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("pass")
    for heading in ("seconds", "matched", "left alone", "weights before", "after", "error"):
        table.add_column(heading, justify="right")
    for record in records:
        table.add_row(
            record.key,
            f"{record.seconds:.2f}",
            str(record.matched),
            str(len(record.refused)),
            megabytes(record.weight_bytes_before),
            megabytes(record.weight_bytes_after),
            "" if record.error is None else f"{record.error:.1e}",
        )
    return table


def _remarks(record: Any) -> list[str]:
    """Notes, and refusals with the same reason in one line."""
    origins: dict[str, list[str]] = {}
    for origin, reason in record.refused:
        origins.setdefault(reason, []).append(origin)
    return [*record.notes, *(f"left alone {', '.join(where)}: {reason}" for reason, where in origins.items())]


def _costs(program: Program, executable: Executable) -> list[str]:
    from llmc.ir.cost import cost_by_op, total_cost
    from llmc.runtime.contract import BLOCK

    costs = sorted(cost_by_op(program).items(), key=lambda item: -item[1].flops)
    most = ", ".join(f"{name} {cost.flops / 1e6:.2f}" for name, cost in costs[:MOST_OPS])
    return [
        f"weights            {megabytes(program.weight_bytes())}",
        f"FLOPs a token      {total_cost(program).flops / 1e6:.2f} MFLOP: {most}",
        f"cache a token      {executable.block_bytes // BLOCK} bytes",
    ]


def _predictions(info: ModelInfo, program: Program, executable: Executable) -> list[str]:
    """Tokens a second that the machine's limits allow, if they were measured."""
    from llmc.evaluate.limits import HOURS_KEPT, decode_work, known_limits, prefill_work

    if "logits" not in program.outputs:
        return []
    limits = known_limits(info.backend, executable.target, info.threads)
    if limits is None:
        return [f"speed              not predicted: 'llmc bench' measures the machine's limits, kept for {HOURS_KEPT} hours"]
    bytes_read, tokens = executable.block_bytes, min(PROMPT, info.max_context)
    decode = 1 / decode_work(program, bytes_read, tokens).seconds(limits)
    prefill = tokens / prefill_work(program, bytes_read, tokens).seconds(limits)
    return [
        f"speed              at most {decode:.0f} tokens/s after {tokens} tokens, which are read at {prefill:.0f} at most",
        f"                   by the limits of {limits.threads} threads, measured {limits.age:.1f} hours ago",
    ]


def megabytes(count: int) -> str:
    """Bytes in MB, of a million bytes."""
    return f"{count / 1e6:.2f} MB"
