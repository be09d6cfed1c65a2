"""Packed weights in large pages, where the system has them for files.

A step streams through all of them. With pages of 4 KB the processor's prefetch ends, and an address is looked up, every 4 KB:
memory gives less than it can.
"""

from __future__ import annotations

import contextlib
import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PIECE = 2 << 20
"""Bytes of a large page on x86-64 and most of Arm. Linux keeps what is written at once, and starts at a multiple of its size,
in one piece of its cache."""


def prefer_large(memory: mmap.mmap) -> NDArray[np.uint8]:
    """The bytes of a mapping, which is asked for in large pages; they are the same where there are none."""
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def mapped(path: Path) -> NDArray[np.uint8]:
    """A file that is not empty, read when its bytes are needed and shared by all processes that map it."""
    with path.open("rb") as file:
        return prefer_large(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def write(path: Path, data: NDArray[np.uint8]) -> None:
    """Write a file such that `mapped` has it in large pages."""
    with path.open("wb") as file:
        for start in range(0, data.size, PIECE):
            file.write(data[start : start + PIECE].data)
