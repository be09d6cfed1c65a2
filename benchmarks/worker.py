"""The process of one side: calls come as lines of JSON on its input, answers go to its output.

    python -m benchmarks.worker PEER
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.peers.base import Engine
from benchmarks.workloads import Workload, workload


class Worker:
    """Answers calls by their name."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.copies, self.turn = engine, 1, 0
        self.workload: Workload | None = None

    def build(self, checkpoint: str, variant: str, target: str) -> dict[str, Any]:
        self.engine.build(Path(checkpoint), variant, Path(target))
        return {}

    def load(self, model: str, copies: int, threads: int) -> dict[str, Any]:
        began = time.perf_counter()
        self.engine.load(Path(model), copies, threads)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "weight_bytes": self.engine.weight_bytes, "cache_bytes": self.engine.cache_bytes}

    def prepare(self, name: str, copies: int) -> dict[str, Any]:
        self.workload, self.copies, self.turn = workload(name), copies, 0
        self.engine.prepare(self.workload, copies)
        return {}

    def tune(self) -> dict[str, Any]:
        """How the engine is set from now on, for the prepared workload."""
        return {"setting": self.engine.tune()}

    def sample(self, steps: int) -> dict[str, Any]:
        """Seconds of so many steps, the copies in turn. What brings a sequence back to its context is not timed. faults: pages
        that had to be read from a disk meanwhile, as memory is short."""
        assert self.workload is not None
        seconds, before = 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        for _ in range(steps):
            copy = self.turn % self.copies
            self.turn += 1
            began = time.perf_counter()
            self.engine.step(copy)
            seconds += time.perf_counter() - began
            if not self.workload.decodes:
                self.engine.reset(copy)
        if self.workload.decodes:
            for copy in range(self.copies):
                self.engine.reset(copy)
        return {"seconds": seconds, "faults": resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before}

    def memory(self) -> dict[str, Any]:
        """The most memory that this process has had, in bytes, pages of mapped files that it read included."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return {"peak_bytes": next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))}


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    worker = Worker(importlib.import_module(f"benchmarks.peers.{sys.argv[1]}").PeerEngine())
    for line in sys.stdin:
        call = json.loads(line)
        try:
            answer = getattr(worker, call.pop("call"))(**call)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
