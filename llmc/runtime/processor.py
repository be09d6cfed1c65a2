"""What this machine's processor can do, as far as compiled code depends on it."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def extensions() -> frozenset[str]:
    """The extensions of the instruction set that Linux lists ("avx2", "asimd"); none where /proc/cpuinfo does not exist."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())


def lacking(machine: str, needs: Iterable[str]) -> str:
    """Why code for a machine ("x86_64") with extensions cannot run here; empty if it can."""
    if machine != platform.machine():
        return f"it is for {machine} and this is {platform.machine()}"
    missing = [name for name in needs if name not in extensions()]
    return f"this processor has no {', '.join(missing)}" if missing else ""
