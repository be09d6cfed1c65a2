"""The CPU backend: C++17 generated from the graph, compiled here, called through a C interface."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.backends.cpu import artifact, toolchain
from llmc.backends.cpu.artifact import Facts
from llmc.backends.cpu.executable import ABI, CpuExecutable
from llmc.errors import ArtifactError, ToolchainError
from llmc.runtime.contract import BLOCK, Availability, Backend

if TYPE_CHECKING:
    from llmc.ir.program import Program

EXTENSIONS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "asimd", "asimddp", "i8mm", "sve")


class CpuBackend(Backend):
    """Generated C++ for this machine's processor."""

    name = "cpu"
    formats = ("f32", "f16", "bf16", "int8")
    stored = (artifact.FACTS_FILE, artifact.WEIGHTS_FILE, artifact.LIBRARY_FILE)

    def lower(self, program: Program) -> CpuExecutable:
        """Generate, compile (or find in the cache) and load. Raises UnsupportedError, ToolchainError."""
        from llmc.backends.cpu.generate import Generator  # torch; a saved model runs without it
        from llmc.backends.cpu.source import print_source
        from llmc.ir.program import type_of
        from llmc.runtime.limits import input_specs

        program.verify()
        generator = Generator(program)
        source = print_source(generator)
        library = toolchain.build(source)
        texts = {toolchain.SOURCE: source, **toolchain.headers(), artifact.BUILD_FILE: toolchain.script()}
        facts = Facts(
            abi=ABI,
            block=BLOCK,
            target=platform.machine(),
            needs=self._extensions(),
            inputs=input_specs(program),
            outputs={name: type_of(node) for name, node in zip(program.outputs, program.results, strict=True)},
            block_bytes=4 * sum(generator.caches.floats),
            sources=tuple(texts),
        )
        return CpuExecutable(library, generator.packer.fill(), facts, lambda: texts)

    def open(self, folder: Path) -> CpuExecutable:
        facts = Facts.read(folder)
        if (facts.abi, facts.block) != (ABI, BLOCK):
            raise ArtifactError(
                f"{folder}: the library has interface version {facts.abi} and cache blocks of {facts.block} positions, not "
                f"{ABI} and {BLOCK}; 'llmc rebuild' on the model's folder makes a new one"
            )
        library, weights = folder / artifact.LIBRARY_FILE, artifact.mapped(folder)
        try:
            return CpuExecutable(library, weights, facts, lambda: artifact.read_sources(folder, facts.sources))
        except ToolchainError as error:
            raise ArtifactError(f"{error}; 'llmc rebuild' on the model's folder does that") from error

    def availability(self) -> Availability:
        try:
            toolchain.command()
        except ToolchainError as error:
            return Availability(False, str(error))
        return Availability(True)

    def targets(self) -> tuple[str, ...]:
        """The instruction set of this processor, by the extensions that the kernels' speed depends on."""
        return (" ".join([platform.machine(), *self._extensions()]),)

    def version(self) -> str:
        return toolchain.compiler_version(tuple(toolchain.command()))

    def _extensions(self) -> tuple[str, ...]:
        known = set(toolchain.processor().split())
        return tuple(name for name in EXTENSIONS if name in known)
