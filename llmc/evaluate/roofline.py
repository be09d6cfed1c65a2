"""A picture of a profile: a roofline (Williams, Waterman and Patterson 2009), and bars of where the time goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmc.errors import InputError, UnsupportedError
from llmc.evaluate.profile import OUTSIDE, WAITING, Phase, Row, by_op
from llmc.evaluate.work import KINDS

if TYPE_CHECKING:
    from llmc.evaluate.limits import Limits

SUFFIXES = (".png", ".svg", ".pdf")
LEAST_SHARE = 0.003
"""Of the time, for an op to be a point of the roofline."""

MOST_BARS = 10
"""Of each phase; what is below is one bar."""

COLORS = {"prefill": "#2a6fbb", "decode": "#d1622b"}
QUIET = {WAITING: "#9a9a9a", OUTSIDE: "#c8c8c8"}
ROOFS = dict(zip(KINDS, ("#1d3557", "#4f7cac", "#8fb0cf"), strict=True))


def check_plot(path: Path) -> None:
    """Raise InputError if no picture can be written there, UnsupportedError if there is nothing to draw with."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: a picture is written as {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, by the file's ending")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UnsupportedError("drawing needs matplotlib, which is not installed: pip install 'llmc[plot]'") from error


def plot(phases: list[Phase], limits: Limits | None, title: str, path: Path) -> None:
    """Draw a profile. Raises InputError if the file cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 10.5), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    top, below = parts
    figure.suptitle(title, fontsize=13)
    _roofline(top.subplots(), phases, limits)
    for axes, phase in zip(below.subplots(1, len(phases)), phases, strict=True):
        _bars(axes, phase, limits)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _roofline(axes: Any, phases: list[Phase], limits: Limits | None) -> None:
    rows = [(phase, row) for phase in phases for row in by_op(phase) if row.seconds > LEAST_SHARE * phase.seconds]
    points = [(phase, row) for phase, row in rows if row.work.bytes and row.work.flops]
    intensities = [row.work.flops / row.work.bytes for _, row in points]
    low, high = min([0.1, *intensities]) / 2, max([1000.0, *intensities]) * 4
    axes.set(xscale="log", yscale="log", xlim=(low, high))
    if limits is not None:
        _roofs(axes, limits, low, high)
    for (phase, row), intensity in zip(points, intensities, strict=True):
        share, achieved = row.seconds / phase.seconds, row.work.flops / row.seconds / 1e9
        axes.scatter(intensity, achieved, s=40 + 900 * share, color=COLORS[phase.name], alpha=0.75, edgecolor="white", zorder=6)
        text = f"{phase.name}: {row.key[0]}"
        if limits is not None:
            text += f"\n{row.work.seconds(limits) / row.seconds:.0%} of {row.work.binding(limits)}"
        axes.annotate(
            text, (intensity, achieved), (13, -5), textcoords="offset points", fontsize=8.5, va="top", zorder=4,
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    axes.set_xlabel("operations for each byte of weights and cache")
    axes.set_ylabel("GOP/s")
    axes.set_title("Roofline: ops by their bytes and arithmetic; the larger the point, the more of the time", fontsize=10.5)
    axes.grid(True, which="major", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)


def _roofs(axes: Any, limits: Limits, low: float, high: float) -> None:
    """The line of reading, up to the highest of the lines of computing."""
    read = limits.rates["read"].best
    peaks = {kind: limits.rates[kind].best for kind in KINDS if kind in limits.rates}
    ridge = max(peaks.values()) / read
    axes.plot([low, ridge], [low * read / 1e9, ridge * read / 1e9], color="#333333", linewidth=1.6)
    start = max(low * 1.3, min(1.0, ridge / 30))
    axes.annotate(
        f"read {read / 1e9:.1f} GB/s", (start, start * read / 1e9), (-4, 8), textcoords="offset points", fontsize=9, ha="right"
    )
    for kind, peak in peaks.items():
        axes.plot([peak / read, high], [peak / 1e9] * 2, color=ROOFS[kind], linewidth=1.6)
        axes.annotate(
            f"{kind} {peak / 1e9:.0f} GOP/s", (peak / read, peak / 1e9), (10, -12), textcoords="offset points", fontsize=9,
            color=ROOFS[kind], zorder=5,
        )  # fmt: skip


def _bars(axes: Any, phase: Phase, limits: Limits | None) -> None:
    rows = by_op(phase)
    shown, rest = rows[:MOST_BARS], rows[MOST_BARS:]
    names = [_name(row) for row in shown] + ([f"{len(rest)} others"] if rest else [])
    seconds = [row.seconds for row in shown] + ([sum(row.seconds for row in rest)] if rest else [])
    colors = [QUIET.get(row.key[0], COLORS[phase.name]) for row in shown] + [COLORS[phase.name]] * bool(rest)
    scale, unit = (1e3, "ms") if phase.seconds >= 0.001 else (1e6, "µs")
    places = range(len(names))
    axes.barh(places, [taken * scale for taken in seconds], color=colors, height=0.68, alpha=0.55)
    for place, taken in zip(places, seconds, strict=True):
        axes.annotate(
            f"{taken * scale:.3g} {unit}, {taken / phase.seconds:.1%}", (taken * scale, place), (4, 0),
            textcoords="offset points", fontsize=8.5, va="center",
        )  # fmt: skip
    if limits is not None:
        bounds = [min(row.work.seconds(limits), row.seconds) for row in shown]
        axes.barh(places[: len(bounds)], [bound * scale for bound in bounds], color=COLORS[phase.name], height=0.68)
    axes.set_yticks(list(places), names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, max(seconds) * scale * 1.3)
    axes.set_xlabel(f"{unit} in the mean of the threads" + ("; solid: what the limits allow" if limits else ""))
    tokens = f"{phase.tokens} tokens" if phase.tokens > 1 else f"a token after {phase.past}"
    axes.set_title(f"{phase.name} of {tokens}: {phase.seconds * scale:.4g} {unit}", fontsize=10.5)
    axes.spines[["top", "right"]].set_visible(False)


def _name(row: Row) -> str:
    op, code = row.key
    return f"{op}: {code}" if code and code != op else op
