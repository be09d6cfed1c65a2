"""What the CPU backend keeps of a model: packed weights to map, a library, its sources, and what is known of them."""

from __future__ import annotations

import json
import math
import re
import shutil
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from llmc.backends.cpu import pages
from llmc.backends.cpu.build import KERNELS, SOURCE, Code
from llmc.backends.cpu.targets import TARGETS, Target
from llmc.errors import ArtifactError
from llmc.ir.types import DTYPES, TensorType
from llmc.runtime.contract import POSITION, InputSpec

FACTS_FILE, WEIGHTS_FILE, LIBRARY_FILE = "executable.json", "weights.bin", "model.so"
BUILD_FILE, MAIN_FILE = "build.sh", "main.c"
NAME = re.compile(r"[A-Za-z][\w.-]*", re.ASCII)
"""Of a source: a file of the folder, and no option of a compiler."""

MOST_ELEMENTS = 2**40
"""Of one entry; more is a damaged file."""


@dataclass(frozen=True)
class Facts:
    """What Python needs to know of a library; `inputs` and `outputs` must be what the library itself says of them.

    abi, block: of the interface and the cache (kernels/llmc.h). target, needs, block_bytes, whole_sequences: of
    `Executable`. sources: the files that the library was built from, the main one first, and others for the reader.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    abi: int
    block: int
    target: str
    needs: tuple[str, ...]
    inputs: dict[str, InputSpec]
    outputs: dict[str, TensorType]
    block_bytes: int
    sources: tuple[str, ...]
    whole_sequences: bool = False

    def write(self, folder: Path) -> None:
        """Write `executable.json`."""
        (folder / FACTS_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> Facts:
        """Read `executable.json`. Raises ArtifactError naming the field that is missing or cannot be."""
        from pydantic import TypeAdapter, ValidationError

        path = folder / FACTS_FILE
        try:
            facts = TypeAdapter(Facts).validate_json(path.read_bytes(), strict=True)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "all"
            raise ArtifactError(f"{path}: malformed: {where}: {first['msg'].lower()}") from error
        problem = facts.problem()
        if problem:
            raise ArtifactError(f"{path}: malformed: {problem}")
        return facts

    def problem(self) -> str:
        """What cannot be, or nothing."""
        for name, spec in self.inputs.items():
            if not _is_entry(spec.dtype, spec.shape) or (spec.limit is not None and spec.limit < 0):
                return f"inputs.{name} is no type of an input"
        for name, kind in self.outputs.items():
            sizes = [size for size in kind.shape if isinstance(size, int)]
            if kind.rows not in ("T", "R", "S") or len(sizes) != len(kind.shape) - 1 or not _is_entry(kind.dtype, tuple(sizes)):
                return f"outputs.{name} is no type of an output"
        if self.target not in TARGETS:
            return f"target: there is no '{self.target}'"
        for name in self.sources:
            if not NAME.fullmatch(name):
                return f"sources: '{name}' is no name of a file"
        if self.block_bytes < 0 or (self.whole_sequences and self.block_bytes):
            return "block_bytes cannot be so"
        return "" if self.outputs else "there are no outputs"


def _is_entry(dtype: str, shape: tuple[int, ...]) -> bool:
    return dtype in DTYPES and all(size >= 0 for size in shape) and math.prod(shape) < MOST_ELEMENTS


def mapped(folder: Path) -> NDArray[np.uint8]:
    """The packed weights, read when they are needed and shared by all processes that map them."""
    path = folder / WEIGHTS_FILE
    return pages.mapped(path) if path.stat().st_size else np.zeros(0, np.uint8)


def texts(code: Code, facts: Facts) -> dict[str, str]:
    """Every source by name: what the library is built from, the command for that, and a program in C that uses it."""
    logits = facts.outputs.get("logits")
    steps = logits is not None and logits.rows == "R" and not facts.whole_sequences
    generates = steps and set(facts.inputs) <= {"input_ids", POSITION}
    main = {MAIN_FILE: (KERNELS / MAIN_FILE).read_text()} if generates else {}
    return {**code.texts, **main, BUILD_FILE: code.script}


def read_code(folder: Path, target: Target) -> Code:
    """The sources as they are now, files that a user has added among them.

    Raises ArtifactError if model.cpp is missing, or a source is a link, which a model that is loaded may not have.
    """
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".cpp", ".h") and path.is_file())
    odd = next((name for name in names if not NAME.fullmatch(name)), None)
    if odd is not None:
        raise ArtifactError(f"{folder / odd}: names of sources are letters, digits, '_', '-' and '.', a letter first")
    link = next((name for name in names if (folder / name).is_symlink()), None)
    if link is not None:
        raise ArtifactError(f"{folder / link}: a link stands where a source should be; put a copy in its place")
    found = read_sources(folder, (SOURCE, *(name for name in names if name != SOURCE)))
    kernels = {name: text for name, text in found.items() if name.endswith(".cpp") and name != SOURCE}
    return Code(found[SOURCE], kernels, {name: text for name, text in found.items() if name.endswith(".h")}, target)


def read_sources(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The texts of source files. Raises ArtifactError if one is missing or no text."""
    texts = {}
    for name in names:
        try:
            texts[name] = (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(f"{folder / name}: cannot read this source: {error}") from error
    return texts


def write(folder: Path, facts: Facts, library: BinaryIO, weights: NDArray[np.uint8], build: str) -> None:
    """Write all but the sources."""
    facts.write(folder)
    pages.write(folder / WEIGHTS_FILE, weights)
    write_library(folder, library, build)


def write_library(folder: Path, library: BinaryIO, build: str) -> None:
    """Write the library, and the command that makes it."""
    library.seek(0)
    with (folder / LIBRARY_FILE).open("wb") as copy:
        shutil.copyfileobj(library, copy)
    script = folder / BUILD_FILE
    script.write_text(build, encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


_spellings: dict[Path, list[tuple[int, int]]] = {}


def loadable(library: Path) -> str:
    """A path of a library that the dynamic linker has not seen for another file.

    It compares names before it looks at files: of a library that was replaced, a process would get the old one again, for as
    long as that is loaded. A few "/" and "./", for the bits of a number, make another name.
    """
    status = library.stat()
    known = _spellings.setdefault(library.resolve(), [])
    identity = (status.st_dev, status.st_ino)
    if identity not in known:
        known.append(identity)
    number = known.index(identity)
    spelling = "".join("/" if bit == "1" else "./" for bit in f"{number:b}") if number else ""
    return f"{library.resolve().parent}/{spelling}{library.name}"
