"""What a model takes until its first token, and of memory, in a process that has just started and does nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.client import Client
from benchmarks.models import model_of
from benchmarks.peers.base import Side
from benchmarks.shapes import Shape
from benchmarks.workloads import workload

PROMPT = "prefill-512"
DECODE = "decode-512"
STEPS = 32


def started(side: Side, shape: Shape, home: Path, threads: int) -> dict[str, Any]:
    """Of one copy: `load_seconds`; `first_token_seconds`, from a prompt of 512 tokens to the first token; `loaded_bytes` and
    `peak_bytes`, the most memory that the process has had when it was loaded, and in the end; `weight_bytes` that a step reads,
    and `cache_bytes`, the keys and values of the longest sequence. Raises PeerError.

    A side that can be set is left as it sets itself: what is tried out would count as memory.
    """
    model = model_of(side, shape, home, threads)
    with Client(side, home, threads, home / "logs" / f"{shape.name}-{side.key}-start.log") as client:
        loaded = client.ask("load", model=str(model), copies=1, threads=threads)
        before = client.ask("memory")["peak_bytes"]
        client.ask("prepare", name=PROMPT, copies=1)
        first = client.ask("sample", steps=1)["seconds"]
        client.ask("prepare", name=DECODE, copies=1)
        client.ask("sample", steps=STEPS)
        peak = client.ask("memory")["peak_bytes"]
    positions = workload(DECODE).context + STEPS
    return {
        "shape": shape.name, "side": side.key, "load_seconds": loaded["seconds"], "first_token_seconds": first,
        "loaded_bytes": before, "peak_bytes": peak, "weight_bytes": loaded["weight_bytes"],
        "cache_bytes": positions * loaded["cache_bytes"],
    }  # fmt: skip
