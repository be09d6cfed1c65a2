"""A model that takes the time of its own statements: the same code and kernels, with a time stamp after each statement.

Only model.cpp differs and is compiled again. A stamp is one reading of the clock by each thread; what lies between two is a
span (`kernels/profile.h`). A statement that waits for all threads, and each end of the loop over layers, has a stamp after the
barrier too, so that waiting is a span of its own.
"""

from __future__ import annotations

import ctypes
import re
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from llmc.backends.cpu import cuts
from llmc.backends.cpu.build import build
from llmc.backends.cpu.executable import CBatch, CpuContext, CpuExecutable
from llmc.backends.cpu.targets import TARGETS
from llmc.errors import UnsupportedError
from llmc.runtime.contract import check_sizes
from llmc.runtime.profile import ProfiledContext, ProfiledExecutable, Span

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator
    from llmc.backends.cpu.plan import Statement
    from llmc.ir.program import Program

HEADER = "profile.h"
STEPPING = Lock()
"""A library writes to one table of times, and two executables may be of one library."""

LINE = 8
"""Numbers in a line of the processor's cache: each thread's begin on one of their own."""


def profiled(program: Program, executable: CpuExecutable) -> CpuProfiledExecutable:
    """The model with time stamps; it reads the packed weights of `executable`, which was lowered from the program.

    Raises UnsupportedError if this processor does not run the executable, or its code is not what the program becomes here;
    ToolchainError if compiling fails.
    """
    from llmc.backends.cpu.generate import Generator  # torch
    from llmc.backends.cpu.source import print_code

    target = TARGETS[executable.target]
    target.check()
    generator = Generator(program)
    sources = executable.sources()
    made = cuts.read(sources.values()) or cuts.of(target)
    if any(sources.get(name) != text for name, text in print_code(generator, target, made).texts.items()):
        raise UnsupportedError(
            "the model's code was edited or made by another version of llmc, and this is not the code that would be profiled; "
            "compile the model again"
        )
    spans = Stamped(generator).spans
    return CpuProfiledExecutable(build(print_code(generator, target, made, HEADER)), executable, spans)


class Stamped:
    """Puts time stamps into the statements of a generator, and knows what the times between them are."""

    def __init__(self, generator: Generator) -> None:
        self.spans: list[Span] = []
        self._main, self._waits = main_statements(generator), generator.many.waits | generator.few.waits
        sections = ((generator.prologue, 1), (generator.body, generator.layers), (generator.epilogue, 1))
        statements = [(section, layers) for section, layers in sections if section]
        before: list[str] = []  # what was at work last when a section begins
        for section, layers in statements:
            last = _names(section[-1], layers)
            self._section(section, layers, [*before, *last[:-1]] if before else [])
            before = last[-1:]
        first = statements[0][0][0]
        first.text = f"stamp(team);\n{first.text}"

    def _section(self, section: list[Statement], layers: int, before: list[str]) -> None:
        """before: what each layer waits for when it begins; nothing if it is the first thing of all."""
        for index, statement in enumerate(section):
            names, code = _names(statement, layers), code_of(statement.text)
            others: list[str | None] = [node.name for node in statement.also] or [None for _ in names]
            main = id(statement) in self._main
            spans = [Span(name, code, main, other) for name, other in zip(names, others, strict=True)]
            lines = [statement.text, self._stamp(spans)]
            if statement in self._waits or (index == 0 and before):
                waited = _names(section[index - 1], layers) if index else before
                lines.insert(0, self._stamp([Span(name, "", False) for name in waited]))
            statement.text = "\n".join(lines)

    def _stamp(self, spans: list[Span]) -> str:
        """The stamp that ends a span, one of each layer in the loop over `l`."""
        first = len(self.spans)
        self.spans += spans
        return f"stamp(team, {first} + l);" if len(spans) > 1 else f"stamp(team, {first});"


def _names(statement: Statement, layers: int) -> list[str]:
    """The node of a statement in each layer; what layers share is one."""
    names = [node.name for node in statement.nodes]
    return names if len(names) == layers else names[:1] * layers


def main_statements(generator: Generator) -> set[int]:
    """Ids of the statements that do the work of a node: of each the one that tells where it comes from, else the last."""
    found: dict[Any, Statement] = {}
    for section in (generator.prologue, generator.body, generator.epilogue):
        for statement in section:
            known = found.get(statement.nodes[0])
            if known is None or not known.comment:
                found[statement.nodes[0]] = statement
    return {id(statement) for statement in found.values()}


def code_of(text: str) -> str:
    """What a statement calls: `linear_w8a8`; `copy` or `loop` if it is written out."""
    call = re.match(r"(\w+)<", text) or re.search(r"\b(linear_\w+)<", text)
    return call[1] if call else "copy" if "std::memcpy" in text else "loop"


class CpuProfiledExecutable(CpuExecutable, ProfiledExecutable):
    """A library with time stamps, and the weights of another executable."""

    def __init__(self, path: Any, executable: CpuExecutable, spans: list[Span]) -> None:
        super().__init__(path, executable.weights, executable.facts, executable.sources())
        self.spans = spans
        self.library.llmc_profile.argtypes = [ctypes.c_void_p, ctypes.c_int64]
        self.library.llmc_profile.restype = None

    def context(self, cache_blocks: int, threads: int | None = None) -> CpuProfiledContext:
        TARGETS[self.target].check()
        return CpuProfiledContext(self, *check_sizes(cache_blocks, threads))


class CpuProfiledContext(CpuContext, ProfiledContext):
    """A context whose steps leave their times behind."""

    executable: CpuProfiledExecutable

    def __init__(self, executable: CpuProfiledExecutable, cache_blocks: int, threads: int) -> None:
        super().__init__(executable, cache_blocks, threads)
        width = -(-(1 + len(executable.spans)) // LINE) * LINE + LINE
        self._stamps = np.zeros((threads, width), np.int64)

    def _step(self, call: CBatch) -> None:
        executable = self.executable
        with STEPPING:
            self._stamps[:] = 0
            executable.library.llmc_profile(self._stamps.ctypes.data, self._stamps.shape[1])
            super()._step(call)
            self.times = self._stamps[:, 1 : 1 + len(executable.spans)] / 1e9
