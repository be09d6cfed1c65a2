"""Code for Arm at work on a machine that is none: made by a cross compiler, run by an emulator of its instructions."""

from __future__ import annotations

import math
import platform
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path

import numpy as np
import pytest

from llmc.backends.cpu.executable import CpuExecutable
from llmc.runtime.contract import POSITION, Context, Executable, check_sizes

COMPILER, C_COMPILER = "aarch64-linux-gnu-g++", "aarch64-linux-gnu-gcc"
EMULATOR = ("qemu-aarch64", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu")
SERVE = Path(__file__).parent / "serve.c"
MISSING = [name for name in (COMPILER, C_COMPILER, EMULATOR[0]) if shutil.which(name) is None]

REASON = f"not found: {', '.join(MISSING)} (packages g++-aarch64-linux-gnu and qemu-user)" if MISSING else "this runs Arm code"

needs_emulator = pytest.mark.skipif(bool(MISSING) or platform.machine() == "aarch64", reason=REASON)


def program_of(folder: Path, source: Path, name: str) -> Path:
    """A program in C, compiled in a saved executable's folder and linked with its library."""
    shutil.copy(source, folder) if source.parent != folder else None
    words = [C_COMPILER, "-O2", source.name, "./model.so", "-o", name]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return folder / name


class Emulated(Executable):
    """An executable whose steps an emulator runs, in a process for each context."""

    def __init__(self, executable: CpuExecutable) -> None:
        self.inputs, self.outputs, self.block_bytes = executable.inputs, executable.outputs, executable.block_bytes
        self.whole_sequences, self.row_exact = executable.whole_sequences, executable.row_exact
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        executable.save(self.folder)
        program_of(self.folder, SERVE, "serve")

    def context(self, cache_blocks: int, threads: int | None = None) -> EmulatedContext:
        return EmulatedContext(self, *check_sizes(cache_blocks, threads))

    def sources(self):
        return {}


class EmulatedContext(Context):
    def __init__(self, executable: Emulated, blocks: int, threads: int) -> None:
        self.executable, self.blocks = executable, blocks
        words = [*EMULATOR, "./serve", "weights.bin", str(blocks), str(threads)]
        self.process = subprocess.Popen(words, cwd=executable.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._end = weakref.finalize(self, end, self.process)

    def close(self) -> None:
        self._end()

    def step(self, batch):
        executable = self.executable
        batch.check(self.blocks, executable.inputs, executable.whole_sequences)
        counts = (batch.tokens, len(batch.out_rows), len(batch.tables), batch.tables.shape[1], len(batch.copies))
        arrays = [np.array(counts, np.int64)]
        for name, spec in executable.inputs.items():
            arrays.append(np.asarray(batch.position if name == POSITION else batch.inputs[name], spec.dtype))
        for indices in (batch.position, batch.run, batch.starts, batch.tables, batch.out_rows, batch.copies):
            arrays.append(np.asarray(indices, np.int32))
        self.process.stdin.write(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))
        self.process.stdin.flush()
        rows = {"T": counts[0], "R": counts[1], "S": counts[2]}
        return {name: self._read((rows[str(kind.rows)], *kind.fixed), kind.dtype) for name, kind in executable.outputs.items()}

    def _read(self, shape, dtype):
        bytes_ = self.process.stdout.read(math.prod(shape) * np.dtype(dtype).itemsize)
        return np.frombuffer(bytes_, dtype).reshape(shape)


def end(process: subprocess.Popen) -> None:
    process.stdin.close()
    process.stdout.close()
    process.wait()
