"""The machine's limits, kept for some hours, and how fast a model could run within them.

The prediction is a roofline (Williams, Waterman and Patterson 2009): a step takes the longer of reading its bytes and doing
its arithmetic, each at the rate that was measured. It counts no overhead, so it is a bound, which caches may exceed where all
weights fit in them.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.evaluate.work import Step, Work, step_work
from llmc.runtime.cache import cache_folder
from llmc.runtime.contract import Backend, Executable, Rate, check_sizes

if TYPE_CHECKING:
    from llmc.ir.program import Program

HOURS_KEPT = 12


@dataclass(frozen=True)
class Limits:
    """Rates by name (`Backend.measure_limits`), for code of a target with so many threads, measured at a time (of `time`)."""

    rates: dict[str, Rate]
    target: str
    threads: int
    measured: float

    @property
    def age(self) -> float:
        """Hours since it was measured; below 0 by a clock that was set back since."""
        return (time.time() - self.measured) / 3600

    def rate(self, kind: str) -> float:
        """Operations a second; a kind that has no instructions of its own runs as float32."""
        return (self.rates.get(kind) or self.rates["float32"]).best


def limits_of(backend: Backend, executable: Executable, threads: int | None, again: bool = False) -> Limits | None:
    """The limits for a model as it runs: measured now if they are not known, are old, or `again`; None if nobody can tell."""
    known = None if again else known_limits(backend.name, executable.target, threads)
    if known is not None:
        return known
    count = check_sizes(1, threads)[1]
    named = executable.target in backend.targets()
    measuring = backend.for_target(executable.target) if named else backend
    rates = measuring.measure_limits(count)
    if not {"read", "float32"} <= rates.keys():
        return None
    limits = Limits(rates, executable.target, count, time.time())
    _keep(backend.name, limits)
    return limits


def known_limits(backend: str, target: str, threads: int | None) -> Limits | None:
    """Those that were measured within the last hours."""
    count = check_sizes(1, threads)[1]
    try:
        data = json.loads(_file(backend, target, count).read_text())
        rates = {str(name): Rate(float(rate["median"]), float(rate["best"])) for name, rate in data["rates"].items()}
        limits = Limits(rates, target, count, float(data["measured"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    usable = {"read", "float32"} <= rates.keys() and all(rate.best > 0 for rate in rates.values())
    return limits if usable and 0 <= limits.age < HOURS_KEPT else None


def _file(backend: str, target: str, threads: int) -> Path:
    return cache_folder() / "limits" / f"{backend}-{target or 'any'}-{threads}.json"


def _keep(backend: str, limits: Limits) -> None:
    """Best effort: where the cache cannot be written, they are measured every time."""
    path = _file(backend, limits.target, limits.threads)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(limits)))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)


def decode_work(program: Program, block_bytes: int, context: int) -> Work:
    """Of one token that attends to `context` positions."""
    return step_work(program, block_bytes, Step(tokens=1, past=context - 1))


def prefill_work(program: Program, block_bytes: int, tokens: int) -> Work:
    """Of a prompt of so many tokens, read in one step, with the last row's outputs."""
    return step_work(program, block_bytes, Step(tokens))
