"""From sources to a library: kernels compiled apart and kept by what they are, model.cpp compiled beside them, all linked.

About 0.5 s of compiling a file would go into headers of the system. So system.h, which includes them and which all files
include first, is compiled once for each target and kept beside the kernels as g++ has read it (55 MB). Objects are the same
with it and without.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llmc.backends.cpu import store, toolchain
from llmc.backends.cpu.targets import Target
from llmc.errors import ToolchainError
from llmc.runtime import progress

KERNELS = Path(__file__).parent / "kernels"
SOURCE, OBJECT, LIBRARY = "model.cpp", "kernel.o", "model.so"
SYSTEM, PRECOMPILED = "system.h", "system.h.gch"
FIRST = re.compile(rf'(\s|//.*\n)*#include "{re.escape(SYSTEM)}"')
"""How a file begins that can use a precompiled header: anything before it and g++ would not."""


def headers() -> dict[str, str]:
    """The kernels, by file name."""
    return {path.name: path.read_text() for path in sorted(KERNELS.glob("*.h"))}


@dataclass(frozen=True)
class Code:
    """What a library is compiled from.

    model: the text of model.cpp. kernels: of the files that instantiate kernels, by name. headers: of all that those include.
    """

    model: str
    kernels: Mapping[str, str]
    headers: Mapping[str, str]
    target: Target

    @property
    def texts(self) -> dict[str, str]:
        """Every file by name, model.cpp first, and among the headers those that are needed."""
        needed: dict[str, str] = {}
        for text in (self.model, *self.kernels.values()):
            needed.update(self.included(text))
        return {SOURCE: self.model, **self.kernels, **dict(sorted(needed.items()))}

    def included(self, text: str) -> dict[str, str]:
        """The headers that a text includes, and those that they include."""
        found: dict[str, str] = {}
        pending = [text]
        while pending:
            for name in re.findall(r'^#include "(.+)"', pending.pop(), re.MULTILINE):
                if name in self.headers and name not in found:
                    found[name] = self.headers[name]
                    pending.append(self.headers[name])
        return dict(sorted(found.items()))

    @cached_property
    def compile(self) -> list[str]:
        """The compiler and its flags."""
        return [*toolchain.command(), *toolchain.FLAGS, *self.target.flags]

    @property
    def command(self) -> list[str]:
        """What makes the library of all files in one folder, at once."""
        return [*self.compile, "-shared", "-o", LIBRARY, SOURCE, *self.kernels]

    @property
    def script(self) -> str:
        """A shell script that builds the library in the folder where it lies."""
        comment = "# What 'llmc rebuild' does, which also takes the result into the manifest."
        return f'#!/bin/sh\n{comment}\ncd "$(dirname "$0")" && {shlex.join(self.command)}\n'

    def digest(self, *parts: str) -> str:
        """The name of a result: parts, and all that else it depends on; a cache folder may be shared by machines."""
        found = hashlib.sha256()
        for part in (*parts, self.target.machine, *self.compile, toolchain.compiler_version(tuple(toolchain.command()))):
            found.update(part.encode() + b"\0")
        return found.hexdigest()[:32]


def build(code: Code) -> Path:
    """The library, from the cache if the same was made before. Raises ToolchainError with the compiler's output if it fails.

    What is missing is compiled on all cores; each kernel that is finished is reported (`llmc.runtime.progress`).
    """
    toolchain.check_machine(code.target.name, code.target.machine)
    folder = store.cache_folder()
    parts = (f"{name}\0{text}" for name, text in code.texts.items())
    return store.kept(folder / code.digest(*parts), LIBRARY, lambda work: _library(code, folder, work))


def _library(code: Code, folder: Path, work: Path) -> None:
    objects: dict[str, Path] = {}
    system, problem = _system(code, folder)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        model = pool.submit(_compile, code, code.model, SOURCE, work, f"{SOURCE}.o", system)
        waiting = {}
        for name, text in code.kernels.items():
            place = folder / "kernels" / code.digest(text, *code.included(text).values())
            if store.intact(place, OBJECT):
                objects[name] = place / OBJECT
            else:
                waiting[pool.submit(_kernel, code, text, name, place, system)] = name
        try:
            for count, done in enumerate(as_completed(waiting), 1):
                objects[waiting[done]] = done.result()
                progress.report("compiling kernels", count, len(waiting))
            model.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    made = [str(objects[name]) for name in code.kernels]
    toolchain.run([*code.compile, "-shared", "-o", LIBRARY, f"{SOURCE}.o", *made], work, LIBRARY, code.target.machine)
    (work / f"{SOURCE}.o").unlink()
    if problem:  # said now: where nothing can be compiled, there is an error instead
        _tell_slow(problem)


def _system(code: Code, folder: Path) -> tuple[Path | None, str]:
    """The precompiled header; None if there is no use for it, or, with the reason, if it cannot be made."""
    text = code.headers.get(SYSTEM)
    if text is None or not FIRST.match(code.model) or not toolchain.precompiles(tuple(toolchain.command())):
        return None, ""
    texts = {SYSTEM: text, **code.included(text)}

    def make(work: Path) -> None:
        _write(texts, work)
        toolchain.run([*code.compile, "-x", "c++-header", "-o", PRECOMPILED, SYSTEM], work, PRECOMPILED)

    place = folder / "headers" / code.digest(*(f"{name}\0{text}" for name, text in texts.items()))
    try:
        return store.kept(place, PRECOMPILED, make), ""
    except ToolchainError as error:
        return None, str(error)


def _tell_slow(problem: str) -> None:
    warnings.warn(f"compiling takes longer, as the compiler makes no use of a precompiled {SYSTEM}: {problem}", stacklevel=2)


def _kernel(code: Code, text: str, name: str, place: Path, system: Path | None) -> Path:
    return store.kept(place, OBJECT, lambda work: _compile(code, text, name, work, OBJECT, system))


def _compile(code: Code, text: str, name: str, work: Path, made: str, system: Path | None) -> None:
    """One file to an object, all that it includes beside it."""
    _write({name: text, **code.included(text)}, work)

    def compile() -> None:
        toolchain.run([*code.compile, "-c", "-o", made, name], work, made, code.target.machine)

    if system is None or not FIRST.match(text):
        compile()
        return
    (work / PRECOMPILED).symlink_to(system)
    try:
        compile()
    except ToolchainError as error:  # of the text, which is said again without the header, or of the header
        (work / PRECOMPILED).unlink()
        compile()
        _tell_slow(str(error))
    else:
        (work / PRECOMPILED).unlink()


def _write(texts: Mapping[str, str], folder: Path) -> None:
    """Write files."""
    for name, text in texts.items():
        (folder / name).write_text(text)
