"""Tables of where the time goes, for `llmc bench --profile`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmc.cli.common import console

if TYPE_CHECKING:
    from rich.table import Table

    from llmc.evaluate.limits import Limits
    from llmc.evaluate.profile import Phase, Row

OPS, MODULES, LAYERS = ("op", "runs as"), ("module", "runs"), ("layer",)

LEGEND = (
    "µs: in the mean of the threads; slowest: of the slowest thread. MB: weights and cache that must be read; moved: MB of "
    "values read and written, mostly in caches.\n"
    "at least: µs that the limits allow for these bytes and FLOPs; limit: which of the two; share of it: that time beside "
    "the one taken; cached: it took less, as weights or keys and values lie in a cache, which is faster than memory.\n"
    "waiting: threads wait for each other to finish what is named; outside: Python, and threads that begin and end a step."
)


def print_profile(phases: list[Phase], limits: Limits | None) -> None:
    """For each phase a table by kind of op, one by place in the model, and one by layer."""
    from llmc.evaluate.profile import by_layer, by_module, by_op

    out = console()
    for phase in phases:
        out.print(f"\n{heading(phase, limits)}")
        out.print(table(OPS, by_op(phase), phase, limits))
        out.print(table(MODULES, by_module(phase), phase, limits))
        out.print(table(LAYERS, by_layer(phase), phase, limits))
    out.print(LEGEND)


def heading(phase: Phase, limits: Limits | None) -> str:
    """How long a phase takes, with time stamps and without."""
    done = f"{phase.name}: {phase.tokens} token{'s' if phase.tokens > 1 else ''} after {phase.past}"
    allowed = "" if limits is None else f", and at least {phase.work.seconds(limits) * 1e3:.3f} by the limits"
    return (
        f"{done}, {phase.steps} step{'s' if phase.steps > 1 else ''}: {phase.seconds * 1e3:.3f} ms with time stamps, "
        f"{phase.plain * 1e3:.3f} without ({phase.distortion:+.1%}){allowed}; {phase.runs} runs"
    )


def table(names: tuple[str, ...], rows: list[Row], phase: Phase, limits: Limits | None) -> Table:
    """Rows with their shares of the phase, and of what the limits allow."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE, pad_edge=False)
    for name in names:
        made.add_column(name, no_wrap=True)
    headings = [name for name in cells(rows[0], phase, limits) if names == OPS or name not in ("slowest", "moved")]
    for name in headings:
        made.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        key = [row.key[0] or ("the rest" if names == LAYERS else ""), *row.key[1:]]
        values = cells(row, phase, limits)
        made.add_row(*key, *(values[name] for name in headings))
    return made


def cells(row: Row, phase: Phase, limits: Limits | None) -> dict[str, str]:
    """Numbers by heading; those that mean nothing are empty."""
    work = row.work
    bound = 0.0 if limits is None else work.seconds(limits)
    return {
        "calls": str(row.calls),
        "µs": number(row.seconds * 1e6),
        "share": f"{row.seconds / phase.seconds:.1%}",
        "slowest": number(row.slowest * 1e6),
        "MB": number(work.bytes / 1e6),
        "moved": number(row.activation_bytes / 1e6),
        "MFLOP": number(work.flops / 1e6),
        "GB/s": number(rate(work.bytes, row.seconds)),
        "GOP/s": number(rate(work.flops, row.seconds)),
        "at least": number(bound * 1e6),
        "limit": work.binding(limits) if limits else "",
        "share of it": share(bound, row.seconds),
    }


def share(bound: float, seconds: float) -> str:
    """Of a limit, which is no limit where it is passed."""
    if not bound or not seconds:
        return ""
    return f"{bound / seconds:.0%}" if bound <= seconds else "cached"


def rate(count: float, seconds: float) -> float:
    """Thousands of millions a second."""
    return count / seconds / 1e9 if seconds else 0.0


def number(value: float) -> str:
    """Three digits that count, but no more than two after the point; empty for nothing."""
    if not value:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def profile_data(phases: list[Phase], limits: Limits | None) -> dict[str, Any]:
    """All of it, every part by itself."""
    return {phase.name: _phase(phase, limits) for phase in phases}


def _phase(phase: Phase, limits: Limits | None) -> dict[str, Any]:
    data = asdict(phase)
    bounds = {} if limits is None else {"predicted_seconds": phase.work.seconds(limits), "limit": phase.work.binding(limits)}
    parts = [
        row if limits is None else {**row, "predicted_seconds": part.work.seconds(limits), "limit": part.work.binding(limits)}
        for row, part in zip(data["parts"], phase.parts, strict=True)
    ]
    return {**data, "distortion": phase.distortion, **bounds, "parts": parts}
