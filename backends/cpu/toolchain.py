"""The C++ compiler: found, asked, and its results kept by content."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from llmc.errors import ToolchainError

KERNELS = Path(__file__).parent / "kernels"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp",
         "-fPIC", "-shared")  # fmt: skip
"""Without contraction: where a product and a sum become one rounding is written in the kernels, not left to the optimizer,
which decides otherwise for one row than for four."""

CACHE_VARIABLE, COMPILER_VARIABLE = "LLMC_CACHE", "CXX"
SOURCE, LIBRARY = "model.cpp", "model.so"


def compiler() -> str:
    """The compiler's path. Raises ToolchainError if there is none."""
    name = os.environ.get(COMPILER_VARIABLE, "g++")
    found = shutil.which(name)
    if found is None:
        raise ToolchainError(
            f"the C++ compiler '{name}' was not found; install g++ (with OpenMP) or name another in {COMPILER_VARIABLE}"
        )
    return found


@lru_cache(maxsize=8)
def compiler_version(path: str) -> str:
    """What the compiler says of itself."""
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[0]


@lru_cache(maxsize=1)
def processor() -> str:
    """What `-march=native` depends on: the flags of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()}"


def cache_folder() -> Path:
    """Where compiled models are kept: `$LLMC_CACHE`, or `llmc` in the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmc"
    return (Path(chosen) if chosen else base) / "cpu"


def headers() -> dict[str, str]:
    """The kernels, by file name."""
    return {path.name: path.read_text() for path in sorted(KERNELS.glob("*.h"))}


def build(source: str) -> Path:
    """The library compiled from a source; from the cache if the same was compiled before.

    Each build has a folder of its own that is renamed into place when it is complete: of two processes that build the same at
    once, one's result stays and both use it. Raises ToolchainError with the compiler's output if it fails.
    """
    path = compiler()
    digest = hashlib.sha256()
    for part in (source, *headers().values(), compiler_version(path), " ".join(FLAGS), processor()):
        digest.update(part.encode() + b"\0")
    target = cache_folder() / digest.hexdigest()[:32]
    if (target / LIBRARY).exists():
        return target / LIBRARY
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix="building-"))
    except OSError as error:
        raise ToolchainError(f"cannot write to the cache folder {target.parent}: {error}; set {CACHE_VARIABLE}") from error
    try:
        (work / SOURCE).write_text(source)
        for name, text in headers().items():
            (work / name).write_text(text)
        run([path, *FLAGS, "-o", LIBRARY, SOURCE], work)
        try:
            work.rename(target)
        except OSError:  # another process was first
            if not (target / LIBRARY).exists():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target / LIBRARY


def run(command: list[str], folder: Path) -> None:
    """Run the compiler. Raises ToolchainError with what it printed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        shown = "\n".join(lines[:40])
        raise ToolchainError(f"{' '.join(command)} failed with status {done.returncode}:\n{shown}")
