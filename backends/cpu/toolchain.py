"""The C++ compiler: found, asked, and its results kept by content."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from llmc.errors import ToolchainError
from llmc.runtime import cache
from llmc.runtime.cache import CACHE_VARIABLE

KERNELS = Path(__file__).parent / "kernels"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp",
         "-fPIC", "-shared")  # fmt: skip
"""Without contraction: where a product and a sum become one rounding is written in the kernels, not left to the optimizer,
which decides otherwise for one row than for four."""

COMPILER_VARIABLE = "CXX"
SOURCE, LIBRARY, SEAL = "model.cpp", "model.so", "model.so.sha256"


def compiler() -> str:
    """The compiler's path. Raises ToolchainError if there is none."""
    return command()[0]


def command() -> list[str]:
    """The compiler's path and the arguments that come with it (`CXX="g++ -m64"`). Raises ToolchainError if it is not found."""
    chosen = os.environ.get(COMPILER_VARIABLE) or "g++"
    try:
        name, *arguments = shlex.split(chosen)
    except ValueError as error:
        raise ToolchainError(f"{COMPILER_VARIABLE}={chosen!r} is no command: {error}") from error
    found = shutil.which(name)
    if found is None:
        raise ToolchainError(
            f"the C++ compiler '{name}' was not found; install g++ (with OpenMP) or name another in {COMPILER_VARIABLE}"
        )
    return [found, *arguments]


@lru_cache(maxsize=8)
def compiler_version(words: tuple[str, ...]) -> str:
    """What the compiler says of itself. Raises ToolchainError if it does not run."""
    return execute([*words, "--version"], Path.cwd()).stdout.split("\n")[0]


@lru_cache(maxsize=1)
def processor() -> str:
    """What `-march=native` depends on: the flags of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()}"


def cache_folder() -> Path:
    """Where compiled models are kept."""
    return cache.cache_folder() / "cpu"


def headers() -> dict[str, str]:
    """The kernels, by file name."""
    return {path.name: path.read_text() for path in sorted(KERNELS.glob("*.h"))}


def build(source: str) -> Path:
    """The library compiled from a source; from the cache if the same was compiled before.

    Each build has a folder of its own that is moved into place when it is complete: of two processes that build the same at
    once, one's result stays and both use it. A library that is not as it was when it was built (cut off, deleted) is built
    again. Raises ToolchainError with the compiler's output if it fails.
    """
    words = command()
    digest = hashlib.sha256()
    for part in (source, *headers().values(), *words, compiler_version(tuple(words)), " ".join(FLAGS), processor()):
        digest.update(part.encode() + b"\0")
    target = cache_folder() / digest.hexdigest()[:32]
    if intact(target):
        return target / LIBRARY
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix="building-"))
    except OSError as error:
        raise ToolchainError(f"cannot write to the cache folder {target.parent}: {error}; set {CACHE_VARIABLE}") from error
    try:
        for name, text in {SOURCE: source, **headers()}.items():
            (work / name).write_text(text)
        run([*words, *FLAGS, "-o", LIBRARY, SOURCE], work)
        seal(work)
        install(work, target)
    except OSError as error:
        raise ToolchainError(f"cannot keep the compiled model in {target.parent}: {error}; set {CACHE_VARIABLE}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target / LIBRARY


def script() -> str:
    """A shell script that builds the library in the folder where it lies, by the command of `build`."""
    line = shlex.join([*command(), *FLAGS, "-o", LIBRARY, SOURCE])
    comment = "# What 'llmc rebuild' does, which also takes the result into the manifest."
    return f'#!/bin/sh\n{comment}\ncd "$(dirname "$0")" && {line}\n'


def fingerprint(library: Path) -> str:
    """Size and SHA-256 of a file."""
    data = library.read_bytes()
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}"


def seal(folder: Path) -> None:
    """Write down what the library is, and have both on disk before anybody sees them."""
    (folder / SEAL).write_text(fingerprint(folder / LIBRARY))
    for name in (LIBRARY, SEAL):
        with (folder / name).open("rb+") as file:
            os.fsync(file.fileno())


def intact(folder: Path) -> bool:
    """Whether a folder holds the library that was built there: loading one that is cut off would kill the process."""
    try:
        return (folder / SEAL).read_text() == fingerprint(folder / LIBRARY)
    except (OSError, UnicodeDecodeError):
        return False


def install(work: Path, target: Path) -> None:
    """Move a finished build into place, unless another process was first; what stands there damaged is taken away."""
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if intact(target):
            return
        if target.exists():
            aside = Path(tempfile.mkdtemp(dir=target.parent, prefix="damaged-"))
            target.rename(aside / "model")  # who has it open keeps it
            shutil.rmtree(aside, ignore_errors=True)
        work.rename(target)


def run(words: list[str], folder: Path) -> None:
    """Run the compiler. Raises ToolchainError with what it printed, or if it wrote no library."""
    done = execute(words, folder)
    output = (done.stderr or done.stdout).strip()
    shown = "\n".join(output.splitlines()[:40])
    if done.returncode:
        hint = "\nThe compiler needs OpenMP (libgomp for g++, libomp for clang)." if re.search("omp", output) else ""
        raise ToolchainError(f"{' '.join(words)} failed with status {done.returncode}:\n{shown}{hint}")
    library = folder / LIBRARY
    if not library.is_file() or not library.stat().st_size:
        raise ToolchainError(f"{' '.join(words)} reported success but wrote no library{': ' if shown else ''}{shown}")


def execute(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command. Raises ToolchainError if it is no program."""
    try:
        return subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise ToolchainError(f"the C++ compiler {words[0]} does not run: {error}; set {COMPILER_VARIABLE}") from error
