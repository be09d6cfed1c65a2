"""The CPU backend: C++17 generated from the graph, compiled here, called through a C interface."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.backends.cpu import artifact, cuts, limits, toolchain
from llmc.backends.cpu.artifact import Facts
from llmc.backends.cpu.build import build
from llmc.backends.cpu.executable import ABI, CpuExecutable
from llmc.backends.cpu.targets import TARGETS, Target, best, named
from llmc.errors import ArtifactError, ToolchainError, UnsupportedError
from llmc.ir.formats import INT4
from llmc.runtime.contract import BLOCK, Availability, Backend, Executable, Rate, Trial

if TYPE_CHECKING:
    from llmc.ir.program import Program
    from llmc.runtime.profile import ProfiledExecutable


class CpuBackend(Backend):
    """Generated C++ for an instruction set, by default the best that this processor has."""

    name = "cpu"
    formats = ("f32", "f16", "bf16", "int8", *INT4)
    fused = frozenset((
        "add_rms_norm", "add_layer_norm", "rounded_rms_norm", "rounded_layer_norm",
        "gated_linear", "rounded_gated", "rounded_silu", "rounded_relu", "rounded_gelu", "rope_attention",
    ))  # fmt: skip
    stored = (artifact.FACTS_FILE, artifact.WEIGHTS_FILE, artifact.LIBRARY_FILE)
    built = (artifact.LIBRARY_FILE,)

    def __init__(self, target: Target | None = None) -> None:
        self.target = target or best()

    def for_target(self, name: str) -> CpuBackend:
        return CpuBackend(named(name))

    def lower(self, program: Program) -> CpuExecutable:
        """Generate, compile (or find in the cache) and load. Raises UnsupportedError, ToolchainError.

        Code for a target that this processor lacks is compiled all the same; a context for it is refused.
        """
        from llmc.backends.cpu.generate import Generator  # torch; a saved model runs without it
        from llmc.backends.cpu.source import print_code
        from llmc.ir.program import type_of
        from llmc.runtime.limits import input_specs

        program.verify()
        generator = Generator(program)
        code = print_code(generator, self.target, cuts.of(self.target))
        library = build(code)
        facts = Facts(
            abi=ABI,
            block=BLOCK,
            target=self.target.name,
            needs=self.target.needs,
            inputs=input_specs(program),
            outputs={name: type_of(node) for name, node in zip(program.outputs, program.results, strict=True)},
            block_bytes=4 * sum(generator.caches.floats),
            whole_sequences=program.whole_sequences,
            sources=(),
        )
        texts = artifact.texts(code, facts)
        facts = dataclasses.replace(facts, sources=tuple(texts))
        return CpuExecutable(library, generator.packer.fill(), facts, texts)

    def open(self, folder: Path) -> CpuExecutable:
        facts = Facts.read(folder)
        if (facts.abi, facts.block) != (ABI, BLOCK):
            raise ArtifactError(
                f"{folder}: the library has interface version {facts.abi} and cache blocks of {facts.block} positions, not "
                f"{ABI} and {BLOCK}; 'llmc rebuild' on the model's folder makes a new one"
            )
        library, weights = folder / artifact.LIBRARY_FILE, artifact.mapped(folder)
        try:
            return CpuExecutable(library, weights, facts, artifact.read_sources(folder, facts.sources))
        except ToolchainError as error:
            raise ArtifactError(f"{error}; 'llmc rebuild' on the model's folder does that") from error

    def rebuild(self, folder: Path, made: Path) -> list[str] | None:
        facts = Facts.read(folder)
        if (facts.abi, facts.block) != (ABI, BLOCK):
            return None
        code = artifact.read_code(folder, named(facts.target))
        texts = artifact.texts(code, facts)
        facts = dataclasses.replace(facts, sources=tuple(texts))
        library = build(code)
        CpuExecutable(library, artifact.mapped(folder), facts, texts)  # raises if they do not belong together
        facts.write(made)
        with library.open("rb") as built:
            artifact.write_library(made, built, texts[artifact.BUILD_FILE])
        return list(texts)

    def profiled(self, program: Program, executable: Executable) -> ProfiledExecutable:
        from llmc.backends.cpu.profile import profiled

        assert isinstance(executable, CpuExecutable)
        return profiled(program, executable)

    def availability(self) -> Availability:
        try:
            self.target.check()
            toolchain.command()
        except (ToolchainError, UnsupportedError) as error:
            return Availability(False, str(error))
        return Availability(True)

    def targets(self) -> tuple[str, ...]:
        """Instruction sets: those of this processor from the best, then those that code can only be compiled for."""
        return tuple(sorted(TARGETS, key=lambda name: bool(TARGETS[name].lacking)))

    def measure_limits(self, threads: int) -> dict[str, Rate]:
        return limits.measure(self.target.name, threads)

    def tune(self) -> list[Trial]:
        """Try cuts of products (`llmc.backends.cpu.tuning`), for the target. Raises UnsupportedError, ToolchainError."""
        from llmc.backends.cpu import tuning

        self.target.check()
        return tuning.tune(self.target)

    def version(self) -> str:
        return toolchain.compiler_version(tuple(toolchain.command()))
