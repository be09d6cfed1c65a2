"""What the machine allows at most, measured between the samples."""

from __future__ import annotations

from pathlib import Path

from llmc.backends.cpu.targets import TARGETS
from llmc.plugins.registry import default

KINDS = ("read", "int8", "bfloat16", "float32")


def measure(threads: int) -> dict[str, float]:
    """Median rates by name: bytes read a second from an array that no cache holds, and operations a second.

    The target that llmc would choose comes first; products that it has no instruction for are measured by others that run here.
    """
    backend, found = default().backend("cpu"), dict[str, float]()
    for target in backend.targets():
        if not TARGETS[target].lacking and not found.keys() >= set(KINDS):
            rates = backend.for_target(target).measure_limits(threads)
            found = {name: rate.median for name, rate in rates.items()} | found
    return found


def last_cache() -> int:
    """Bytes of the largest cache of a core, as Linux tells it; 32 MB if it does not."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text[:-1]) << {"K": 10, "M": 20}[text[-1]])
    return max(sizes, default=32 << 20)
