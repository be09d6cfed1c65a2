"""What the samples say: rates, shares of the limits, ratios with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Raw = Mapping[str, Any]


@dataclass(frozen=True)
class Ratio:
    """Of rounds in which both sides took turns."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}..{self.greatest:.2f})"


def limits_of(data: Raw) -> dict[str, float]:
    """Of each limit the greatest of the medians that were measured in the sitting."""
    names = {name for entry in data["limits"] for name in entry}
    return {name: max(entry[name] for entry in data["limits"] if name in entry) for name in names}


def rate(run: Raw) -> float:
    """Tokens a second in the median."""
    return run["tokens"] / statistics.median(run["seconds"])


def gigabytes(run: Raw) -> float:
    """GB a second that a step reads, in the median."""
    return run["bytes"] / statistics.median(run["seconds"]) / 1e9


def share(run: Raw, limits: Mapping[str, float]) -> float:
    """Of what the machine allows: the longer of reading the bytes and of the arithmetic at the peak of int8 (for weights in
    bfloat16: of that or of float32, whichever is faster), over what a step took."""
    kinds = ("bfloat16", "float32") if run["weights"] == "bf16" else ()
    peak = max((limits[kind] for kind in kinds if kind in limits), default=limits["int8"])
    least = max(run["bytes"] / limits["read"], run["flops"] / peak)
    return least / statistics.median(run["seconds"])


def ratio(ours: Raw, other: Raw) -> Ratio:
    """How many times as fast ours is, of the rounds that both have."""
    found = sorted(b / a for a, b in zip(ours["seconds"], other["seconds"], strict=False))
    return Ratio(statistics.median(found), found[0], found[-1])


def best_peer(run: Raw, runs: Sequence[Raw]) -> Raw | None:
    """The fastest other side with weights of the same class at the same workload."""
    others = [
        other
        for other in runs
        if not other["side"].startswith("llmc-")
        and all(other[key] == run[key] for key in ("shape", "workload", "weights"))
    ]
    return max(others, key=rate, default=None)
