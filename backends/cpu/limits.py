"""What the machine can do at most, measured by a small program of its own (kernels/limits.cpp)."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from llmc.backends.cpu import store, toolchain
from llmc.errors import ToolchainError
from llmc.runtime.contract import Rate

SOURCE, PROGRAM = "limits.cpp", "limits"
FLAGS = ("-std=c++17", "-O2", "-pthread")
"""No instruction set: the program has its instructions written out, and runs only those of the target that it is given."""


def measure(target: str, threads: int) -> dict[str, Rate]:
    """Bytes read and operations a second with so many threads; takes a few seconds. Raises ToolchainError."""
    program = _program()
    done = toolchain.execute([str(program), target, str(threads)], program.parent)
    if done.returncode:
        raise ToolchainError(f"{program} ended with status {done.returncode}; the machine's limits cannot be measured")
    rows = (line.split() for line in done.stdout.splitlines())
    return {name: Rate(float(median), float(best)) for name, median, best in rows}


def _program() -> Path:
    text = (Path(__file__).parent / "kernels" / SOURCE).read_text()
    words = [*toolchain.command(), *FLAGS]
    parts = (text, *words, toolchain.compiler_version(tuple(toolchain.command())))
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def make(work: Path) -> None:
        (work / SOURCE).write_text(text)
        toolchain.run([*words, "-o", PROGRAM, SOURCE], work, PROGRAM, platform.machine())

    return store.kept(store.cache_folder() / "limits" / digest, PROGRAM, make)
