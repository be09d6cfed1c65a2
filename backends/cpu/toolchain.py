"""The C++ compiler: found, asked, run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from llmc.errors import ToolchainError

FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC",
         "-fvisibility=hidden")  # fmt: skip
"""Without contraction: where a product and a sum become one rounding is written in the kernels, not left to the optimizer,
which decides otherwise for one row than for four."""

COMPILER_VARIABLE = "CXX"
ELF = b"\x7fELF"
ELF_MACHINES = {"x86_64": b"\x3e\x00", "aarch64": b"\xb7\x00"}
"""How files of compiled code name the machine that it is for, at byte 18."""


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


@lru_cache(maxsize=8)
def makes_code_for(words: tuple[str, ...]) -> str:
    """The kind of machine that a compiler makes code for; empty if it does not tell."""
    done = execute([*words, "-dumpmachine"], Path.cwd())
    return "" if done.returncode else done.stdout.strip().partition("-")[0]


def precompiles(words: tuple[str, ...]) -> bool:
    """Whether the compiler takes `x.h.gch` for `x.h` where that is included, as g++ does and clang does not."""
    return "clang" not in compiler_version(words)


def check_machine(target: str, machine: str) -> None:
    """Raise ToolchainError if the compiler makes code for another kind of machine than a target's."""
    words = command()
    told = makes_code_for(tuple(words))
    if told in ELF_MACHINES and told != machine:
        cross = f"{machine}-linux-gnu-g++"
        raise ToolchainError(
            f"code for '{target}' is for {machine}, and {shlex.join(words)} makes code for {told}; "
            f"name a compiler for {machine} in {COMPILER_VARIABLE} ({COMPILER_VARIABLE}={cross})"
        )


def run(words: list[str], folder: Path, made: str, machine: str | None = None) -> None:
    """Run the compiler. Raises ToolchainError with what it printed, or if it did not write the file `made`.

    machine: that the file must be code for, if it is code.
    """
    done = execute(words, folder)
    output = (done.stderr or done.stdout).strip()
    shown = "\n".join(output.splitlines()[:40])
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ToolchainError(f"{' '.join(words)} was killed by {name}; is there memory enough?\n{shown}".rstrip())
    if done.returncode:
        hint = "\nThe compiler needs OpenMP (libgomp for g++, libomp for clang)." if re.search("omp", output) else ""
        raise ToolchainError(f"{' '.join(words)} failed with status {done.returncode}:\n{shown}{hint}")
    file = folder / made
    if not file.is_file() or (machine is not None and not _is_code(file, machine)):
        problem = f"{' '.join(words)} reported success but did not write {made}" + (f" for {machine}" if machine else "")
        raise ToolchainError(f"{problem}: {shown}" if shown else problem)


def _is_code(file: Path, machine: str) -> bool:
    """Whether a file begins as compiled code for a machine does; what is kept is loaded without another look."""
    with file.open("rb") as opened:
        start = opened.read(20)
    if sys.platform != "linux":
        return bool(start)
    return start.startswith(ELF) and start[18:20] == ELF_MACHINES.get(machine, start[18:20])


def execute(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command. Raises ToolchainError if it is no program."""
    try:
        return subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise ToolchainError(f"the C++ compiler {words[0]} does not run: {error}; set {COMPILER_VARIABLE}") from error
