"""What this machine's processor can do, as far as compiled code depends on it."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def told() -> dict[str, str]:
    """What Linux tells of the first processor; nothing where /proc/cpuinfo does not exist."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def extensions() -> frozenset[str]:
    """The extensions of the instruction set that Linux lists ("avx2", "asimd")."""
    return frozenset((told().get("flags") or told().get("Features") or "").split())


def vendor() -> str:
    """Who made the processor ("GenuineIntel", "AuthenticAMD"); empty if Linux does not tell."""
    return told().get("vendor_id", "")


def model() -> str:
    """What its maker calls the processor; empty if Linux does not tell."""
    return told().get("model name", "")


def cache_bytes(level: int) -> int:
    """The size of a core's cache of a level, for data; 0 if Linux does not tell."""
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            found, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if found == str(level) and kind != "Instruction" and size.removesuffix("K").isdecimal():
            return int(size.removesuffix("K")) << 10
    return 0


def lacking(machine: str, needs: Iterable[str]) -> str:
    """Why code for a machine ("x86_64") with extensions cannot run here; empty if it can."""
    if machine != platform.machine():
        return f"it is for {machine} and this is {platform.machine()}"
    missing = [name for name in needs if name not in extensions()]
    return f"this processor has no {', '.join(missing)}" if missing else ""
