"""What llmc is held to, beside what sittings found: a page to be read first. What misses is bold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks import table as tables
from benchmarks.peers import SIDES
from benchmarks.results import Raw, limits_of, rate, ratio, share
from benchmarks.targets import MEMORY, Target, targets_of

HEADINGS = ("workload", "", "share of the limit", "held to", "ratio to the peer", "held to")
NOTHING = "**not measured**"


def page(sittings: Sequence[Raw]) -> str:
    """Markdown: a line for each target and sitting that measured it, and one for the memory of each of llmc's sides. A sitting
    is one of `Sitting.data`."""
    return "\n".join(lines(sittings)) + "\n"


def lines(sittings: Sequence[Raw]) -> Iterator[str]:
    yield from dict.fromkeys(tables.machine_line(data) for data in sittings)
    yield ""
    yield f"| {' | '.join(HEADINGS)} |"
    yield "|---|---|---:|---:|---:|---:|"
    missed = 0
    shapes = dict.fromkeys(run["shape"] for data in sittings for run in [*data["runs"], *data["starts"]])
    for target in [target for shape in shapes for target in targets_of(shape)]:
        rows = [row(target, data) for data in sittings]
        for line in [line for line in rows if NOTHING not in line] or [min(rows, key=lambda line: line.count(NOTHING))]:
            missed += "**" in line
            yield line
    starts = [line for data in sittings for line in memory(data)]
    if starts:
        yield ""
        yield f"| | MB beside packed weights, keys and values ({MEMORY / 1e6:.0f} are allowed) | loaded in s |"
        yield "|---|---:|---:|"
        yield from starts
        missed += sum("**" in line for line in starts)
    yield ""
    yield f"{missed} of these lines miss something: bold." if missed else "Nothing is missed."


def row(target: Target, data: Raw) -> str:
    """The shares and ratios of one target."""
    runs = {run["side"]: run for run in data["runs"] if (run["shape"], run["workload"]) == (target.shape, target.workload)}
    ours, peers = runs.get(target.side), [runs[key] for key in target.peers if key in runs]
    part = against = ""
    if target.share:
        part = NOTHING if ours is None else marked(share(ours, limits_of(data)), target.share, ".0%")
    if target.ratio and (ours is None or not peers):
        against = NOTHING
    elif target.ratio and ours is not None:
        peer = max(peers, key=rate)
        found = ratio(ours, peer)
        spread = f"{found.least:.2f}..{found.greatest:.2f}"
        against = f"{marked(found.median, target.ratio, '.2f')} ({spread}) {SIDES[peer['side']].label}"
    held = f"{target.share:.0%}" if target.share else "", f"{target.ratio:g}" if target.ratio else ""
    return f"| {target.workload}, {target.shape} | {SIDES[target.side].label} | {part} | {held[0]} | {against} | {held[1]} |"


def memory(data: Raw) -> Iterator[str]:
    """What each of llmc's sides takes."""
    for one in data["starts"]:
        if one["side"].startswith("llmc-"):
            beside = one["peak_bytes"] - one["weight_bytes"] - one["cache_bytes"]
            size = f"**{beside / 1e6:.1f}**" if beside > MEMORY else f"{beside / 1e6:.1f}"
            yield f"| {one['shape']}, {SIDES[one['side']].label} | {size} | {one['load_seconds']:.2f} |"


def marked(found: float, least: float, form: str) -> str:
    """A number, in bold if it is below what it should be."""
    return f"{found:{form}}" if found >= least else f"**{found:{form}}**"
