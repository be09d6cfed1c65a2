"""The CPU backend: C++17 generated from the graph, compiled here, called through a C interface."""

from __future__ import annotations

import platform

from llmc.backends.cpu import toolchain
from llmc.backends.cpu.executable import CpuExecutable
from llmc.backends.cpu.generate import Generator
from llmc.backends.cpu.source import print_source
from llmc.errors import ToolchainError
from llmc.ir.program import Program, type_of
from llmc.runtime.contract import Availability, Backend
from llmc.runtime.limits import input_specs

EXTENSIONS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "asimd", "asimddp", "i8mm", "sve")


class CpuBackend(Backend):
    """Generated C++ for this machine's processor."""

    name = "cpu"
    formats = ("f32", "f16", "bf16", "int8")

    def lower(self, program: Program) -> CpuExecutable:
        """Generate, compile (or find in the cache) and load. Raises UnsupportedError, ToolchainError."""
        program.verify()
        generator = Generator(program)
        source = print_source(generator)
        library = toolchain.build(source)
        outputs = {name: type_of(node) for name, node in zip(program.outputs, program.results, strict=True)}
        texts = {toolchain.SOURCE: source, **toolchain.headers()}
        block_bytes = 4 * sum(generator.caches.floats)
        return CpuExecutable(library, generator.packer.fill(), input_specs(program), outputs, block_bytes, texts)

    def availability(self) -> Availability:
        try:
            toolchain.command()
        except ToolchainError as error:
            return Availability(False, str(error))
        return Availability(True)

    def targets(self) -> tuple[str, ...]:
        """The instruction set of this processor, by the extensions that the kernels' speed depends on."""
        known = set(toolchain.processor().split())
        return (" ".join([platform.machine(), *(name for name in EXTENSIONS if name in known)]),)

    def version(self) -> str:
        return toolchain.compiler_version(tuple(toolchain.command()))
