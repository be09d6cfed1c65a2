"""The samples of a sitting as a page of tables."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.peers import SIDES
from benchmarks.results import Raw, best_peer, gigabytes, limits_of, rate, ratio, share
from benchmarks.targets import MEMORY

HEADINGS = ("", "tokens/s", "MB a step", "GB/s", "share of the limit", "ratio to the best peer of its bits", "copies")


def page(data: Raw) -> str:
    """Markdown: the machine, its limits, and a table for each shape and workload."""
    return "\n".join(lines(data)) + "\n"


def lines(data: Raw) -> Iterator[str]:
    limits = limits_of(data)
    yield machine_line(data)
    yield ""
    yield "Limits in this sitting: " + ", ".join(
        f"{name} {limits[name] / 1e9:.1f} {'GB/s' if name == 'read' else 'GOP/s'}" for name in sorted(limits, reverse=True)
    )
    seen: dict[tuple[str, str], list[Raw]] = {}
    for run in data["runs"]:
        seen.setdefault((run["shape"], run["workload"]), []).append(run)
    for (shape, work), runs in seen.items():
        yield ""
        yield f"## {shape}, {work} ({len(runs[0]['seconds'])} rounds)"
        yield ""
        yield f"| {' | '.join(HEADINGS)} |"
        yield f"|---{'|---:' * (len(HEADINGS) - 1)}|"
        for run in runs:
            yield row(run, runs, limits)
        settings = [f"- {SIDES[run['side']].label}: {run['setting']}" for run in runs if run.get("setting")]
        if settings:
            yield ""
            yield "Set so, after trying:"
            yield ""
            yield from settings
        waited = [f"{SIDES[run['side']].label} {run['faults']}" for run in runs if run.get("faults")]
        if waited:
            yield ""
            yield f"Memory was short: pages were read from a disk within samples: {', '.join(waited)}. Run fewer sides at once."
    if data["starts"]:
        yield from start_lines(data["starts"])
    if data["failures"]:
        yield ""
        yield "## What did not run"
        yield ""
        for shape, work, side, reason in data["failures"]:
            yield f"- {shape}, {work}, {side}: {reason}"


def machine_line(data: Raw) -> str:
    """What the samples were taken on."""
    machine = data["machine"]
    return f"{machine['processor']}, {machine['threads']} threads, {machine['date']}, commit {machine['commit']}"


def start_lines(starts: list[Raw]) -> Iterator[str]:
    """Load time, first token and memory."""
    yield ""
    yield "## Start-up and memory"
    yield ""
    yield "A process that loads one copy, reads 512 tokens and writes 32; allowed: packed weights, keys and values, and 120 MB."
    yield ""
    yield "| | loaded in s | first token of 512 in s | peak memory in MB | allowed in MB |"
    yield "|---|---:|---:|---:|---:|"
    for one in starts:
        allowed = one["weight_bytes"] + one["cache_bytes"] + MEMORY
        yield (
            f"| {one['shape']}, {SIDES[one['side']].label} | {one['load_seconds']:.2f} | {one['first_token_seconds']:.2f} "
            f"| {one['peak_bytes'] / 1e6:.0f} | {allowed / 1e6:.0f} |"
        )


def row(run: Raw, runs: list[Raw], limits: dict[str, float]) -> str:
    peer = best_peer(run, runs) if run["side"].startswith("llmc-") else None
    against = f"{ratio(run, peer)} {SIDES[peer['side']].label}" if peer else ""
    reads = f"{run['bytes'] / 1e6:.1f} | {gigabytes(run):.1f}"
    return (
        f"| {SIDES[run['side']].label} | {rate(run):.1f} | {reads} | {share(run, limits):.0%} | {against} | {run['copies']} |"
    )
