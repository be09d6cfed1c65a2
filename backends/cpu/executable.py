"""Generated models at work: the C interface through ctypes, arrays in and out."""

from __future__ import annotations

import ctypes
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmc.errors import ToolchainError
from llmc.runtime.contract import Batch, Context, Executable

ABI = 1


class CBatch(ctypes.Structure):
    """`LlmcBatch` of kernels/abi.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("tokens", "rows", "width", "copies")),
        ("inputs", ctypes.POINTER(ctypes.c_void_p)),
        *((name, ctypes.c_void_p) for name in ("position", "table", "blocks", "out_rows", "copy_pairs")),
        ("outputs", ctypes.POINTER(ctypes.c_void_p)),
    ]


def open_library(path: Path) -> ctypes.CDLL:
    """A compiled model. Raises ToolchainError if it cannot be loaded or speaks another version of the interface."""
    try:
        library = ctypes.CDLL(str(path))
        version = library.llmc_abi()
    except (OSError, AttributeError) as error:
        raise ToolchainError(f"{path}: cannot load the compiled model: {error}; delete it to have it built again") from error
    if version != ABI:
        raise ToolchainError(f"{path}: the compiled model has interface version {version}, not {ABI}; delete it")
    library.llmc_error.restype = ctypes.c_char_p
    library.llmc_model.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)]
    library.llmc_context.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p)]
    library.llmc_step.argtypes = [ctypes.c_void_p, ctypes.POINTER(CBatch)]
    for name in ("llmc_free_model", "llmc_free_context"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = None
    return library


class CpuExecutable(Executable):
    """A loaded library and its packed weights.

    inputs: names of the program's inputs in the library's order; outputs: name and shape of a row of each result.
    """

    def __init__(
        self,
        library: Path,
        weights: NDArray[np.uint8],
        inputs: tuple[str, ...],
        outputs: dict[str, tuple[int, ...]],
        texts: dict[str, str],
    ) -> None:
        self.library, self.weights, self.inputs, self.outputs = open_library(library), weights, inputs, outputs
        self._texts = texts
        self.handle = ctypes.c_void_p()
        self.checked(self.library.llmc_model(weights.ctypes.data, ctypes.byref(self.handle)))
        weakref.finalize(self, self.library.llmc_free_model, self.handle.value)

    def checked(self, status: int) -> None:
        """Raise what the library reports."""
        if status:
            raise MemoryError(self.library.llmc_error().decode())

    def context(self, cache_blocks: int, threads: int | None = None) -> CpuContext:
        return CpuContext(self, cache_blocks, threads or os.cpu_count() or 1)

    def sources(self) -> dict[str, str]:
        return self._texts


class CpuContext(Context):
    """A cache and the activations of a step."""

    def __init__(self, executable: CpuExecutable, cache_blocks: int, threads: int) -> None:
        self.executable, self.blocks = executable, cache_blocks
        self.handle = ctypes.c_void_p()
        library = executable.library
        executable.checked(library.llmc_context(executable.handle, cache_blocks, threads, ctypes.byref(self.handle)))
        weakref.finalize(self, library.llmc_free_context, self.handle.value)

    def step(self, batch: Batch) -> dict[str, NDArray[Any]]:
        batch.check(self.blocks)
        sequences = [sequence for sequence, _, _ in batch.runs()]
        width = max((len(batch.blocks[s]) for s in sequences), default=1)
        tables = np.zeros((max(len(sequences), 1), width), np.int32)
        place = {sequence: i for i, sequence in enumerate(sequences)}
        for sequence, row in place.items():
            tables[row, : len(batch.blocks[sequence])] = batch.blocks[sequence]
        table = np.array([place[int(s)] for s in batch.sequence], np.int32)
        position = np.ascontiguousarray(batch.position, np.int32)
        out_rows = np.ascontiguousarray(batch.out_rows, np.int32)
        pairs = np.array(batch.copies, np.int32).reshape(-1, 2)
        given = [
            np.ascontiguousarray(batch.position if name == "position" else batch.inputs[name], np.int64)
            for name in self.executable.inputs
        ]
        results = {
            name: np.empty((len(out_rows), *shape), np.float32) for name, shape in self.executable.outputs.items()
        }
        call = CBatch(
            tokens=len(position),
            rows=len(out_rows),
            width=width,
            copies=len(pairs),
            inputs=pointers(given),
            position=position.ctypes.data,
            table=table.ctypes.data,
            blocks=tables.ctypes.data,
            out_rows=out_rows.ctypes.data,
            copy_pairs=pairs.ctypes.data,
            outputs=pointers(list(results.values())),
        )
        self.executable.checked(self.executable.library.llmc_step(self.handle, ctypes.byref(call)))
        return results


def pointers(arrays: list[NDArray[Any]]) -> Any:
    """A C array of the addresses of arrays."""
    return (ctypes.c_void_p * max(len(arrays), 1))(*(array.ctypes.data for array in arrays))
