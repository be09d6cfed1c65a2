"""Generated models at work: the C interface through ctypes, arrays in and out."""

from __future__ import annotations

import ctypes
import math
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmc.backends.cpu import artifact
from llmc.backends.cpu.artifact import Facts
from llmc.backends.cpu.targets import TARGETS
from llmc.errors import ArtifactError, InputError, ToolchainError, UnsupportedError
from llmc.runtime.contract import BLOCK, POSITION, Batch, Context, Executable, check_largest, check_sizes

ABI = 5

Signature = list[tuple[str, str, str, int, int]]
"""Of each tensor: name, dtype, rows, elements of an entry, limit (-1 for none)."""


class CTensor(ctypes.Structure):
    """`LlmcTensor` of kernels/llmc.h."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_char_p),
        ("rows", ctypes.c_char),
        ("width", ctypes.c_int64),
        ("limit", ctypes.c_int64),
    ]


class CBatch(ctypes.Structure):
    """`LlmcBatch` of kernels/llmc.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("tokens", "rows", "runs", "width", "copies")),
        ("inputs", ctypes.POINTER(ctypes.c_void_p)),
        *((name, ctypes.c_void_p) for name in ("position", "run", "starts", "tables", "out_rows", "copy_pairs")),
        ("outputs", ctypes.POINTER(ctypes.c_void_p)),
        ("largest", ctypes.c_void_p),
        ("ranked", ctypes.c_int64),
    ]


def open_library(path: Path) -> ctypes.CDLL:
    """A compiled model. Raises ToolchainError if it cannot be loaded or was made for another version of this package."""
    try:
        library = ctypes.CDLL(artifact.loadable(path))
        found = (library.llmc_abi(), library.llmc_block())
    except (OSError, AttributeError) as error:
        raise ToolchainError(f"{path}: cannot load the compiled model: {error}; delete it to have it built again") from error
    if found != (ABI, BLOCK):
        made = "interface version {} and cache blocks of {} positions"
        raise ToolchainError(f"{path}: made for {made.format(*found)}, not {made.format(ABI, BLOCK)}; delete it")
    library.llmc_error.restype = ctypes.c_char_p
    library.llmc_weight_bytes.restype = ctypes.c_int64
    library.llmc_model.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)]
    library.llmc_context.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p)]
    library.llmc_step.argtypes = [ctypes.c_void_p, ctypes.POINTER(CBatch)]
    for name in ("llmc_inputs", "llmc_outputs"):
        getattr(library, name).argtypes = [ctypes.POINTER(ctypes.POINTER(CTensor))]
    for name in ("llmc_free_model", "llmc_free_context"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = None
    return library


def signature(library: ctypes.CDLL) -> tuple[Signature, Signature]:
    """What a library says of its inputs and outputs."""
    found = []
    for function in (library.llmc_inputs, library.llmc_outputs):
        tensors = ctypes.POINTER(CTensor)()
        count = function(ctypes.byref(tensors))
        found.append([(t.name.decode(), t.dtype.decode(), t.rows.decode(), t.width, t.limit) for t in tensors[:count]])
    return found[0], found[1]


def declared(facts: Facts) -> tuple[Signature, Signature]:
    """What the library should say."""
    inputs = [(n, s.dtype, "T", math.prod(s.shape), -1 if s.limit is None else s.limit) for n, s in facts.inputs.items()]
    return inputs, [(name, kind.dtype, str(kind.rows), kind.width, -1) for name, kind in facts.outputs.items()]


class CpuExecutable(Executable):
    """A loaded library and its packed weights. inputs, outputs: in the library's order.

    texts: the sources. Raises ToolchainError if the library cannot be loaded, and ArtifactError if library, weights and
    facts do not belong together.
    """

    row_exact = True

    def __init__(self, path: Path, weights: NDArray[np.uint8], facts: Facts, texts: dict[str, str]) -> None:
        self.path, self.weights, self.facts = path, weights, facts
        self.inputs, self.outputs, self.block_bytes = facts.inputs, facts.outputs, facts.block_bytes
        self.target, self.machine, self.needs = facts.target, TARGETS[facts.target].machine, facts.needs
        self.whole_sequences, self._texts = facts.whole_sequences, texts
        self._file = path.open("rb")  # for `save`: another model may take the place of the file that was loaded
        weakref.finalize(self, self._file.close)
        self.handle = ctypes.c_void_p()
        if not TARGETS[self.target].lacking:
            self._open()

    def _open(self) -> None:
        path, weights, facts = self.path, self.weights, self.facts
        self.library = open_library(path)
        size = self.library.llmc_weight_bytes()
        if size != weights.size:
            raise ArtifactError(f"{path}: it reads {size} bytes of packed weights, and there are {weights.size}")
        if signature(self.library) != declared(facts):
            raise ArtifactError(f"{path}: its inputs and outputs are not those that {artifact.FACTS_FILE} tells of")
        if self.library.llmc_model(weights.ctypes.data, ctypes.byref(self.handle)):
            raise MemoryError(self.problem())
        weakref.finalize(self, self.library.llmc_free_model, self.handle.value)

    def problem(self) -> str:
        """What the library says of its last failure in this thread."""
        return self.library.llmc_error().decode()

    def context(self, cache_blocks: int, threads: int | None = None) -> CpuContext:
        """Raises UnsupportedError if this processor lacks what the code was compiled for."""
        TARGETS[self.target].check()
        return CpuContext(self, *check_sizes(cache_blocks, threads))

    def sources(self) -> dict[str, str]:
        return self._texts

    def save(self, folder: Path) -> None:
        super().save(folder)
        artifact.write(folder, self.facts, self._file, self.weights, self._texts[artifact.BUILD_FILE])


class CpuContext(Context):
    """A cache and the activations of a step."""

    def __init__(self, executable: CpuExecutable, cache_blocks: int, threads: int) -> None:
        self.executable, self.blocks, self.threads = executable, cache_blocks, threads
        handle = ctypes.c_void_p()
        if executable.library.llmc_context(executable.handle, cache_blocks, threads, ctypes.byref(handle)):
            size = f"{cache_blocks} blocks, {cache_blocks * executable.block_bytes / 1e9:.1f} GB"
            raise MemoryError(f"no memory for a cache of {size}: {executable.problem()}")
        self._handle: int | None = handle.value
        self._free = weakref.finalize(self, executable.library.llmc_free_context, handle.value)

    def close(self) -> None:
        self._handle = None
        self._free()

    def step(self, batch: Batch) -> dict[str, NDArray[Any]]:
        self._check(batch)
        results = {name: self._entries(batch, name) for name in self.executable.outputs}
        self._run(batch, [address(values) for values in results.values()])
        return results

    def step_largest(self, batch: Batch, output: str) -> NDArray[np.int64]:
        """The entries stay in memory of the context, and mostly in the cache of the thread that looks for their largest."""
        self._check(batch)
        outputs = self.executable.outputs
        check_largest(outputs, output)
        others = {name: self._entries(batch, name) for name in outputs if name != output}
        places = np.empty(self._count(batch, output), np.int64)
        self._run(batch, [address(others[name]) if name in others else 0 for name in outputs], places, [*outputs].index(output))
        return places

    def _check(self, batch: Batch) -> None:
        """Raise for what the library must not be given."""
        if self._handle is None:
            raise InputError("this context was closed")
        batch.check(self.blocks, self.executable.inputs, self.executable.whole_sequences)
        if self.threads > 1:
            Threads.use()

    def _count(self, batch: Batch, output: str) -> int:
        rows = self.executable.outputs[output].rows
        return batch.tokens if rows == "T" else len(batch.out_rows if rows == "R" else batch.first)

    def _entries(self, batch: Batch, output: str) -> NDArray[Any]:
        kind = self.executable.outputs[output]
        return np.empty((self._count(batch, output), *kind.fixed), kind.dtype)

    def _run(self, batch: Batch, outputs: list[int], largest: NDArray[np.int64] | None = None, ranked: int = 0) -> None:
        """Give a batch to the library. outputs: addresses of memory for the entries of each; largest: what it is to fill
        instead of the entries of the output `ranked`."""
        arrays = (batch.position, batch.run, batch.starts, batch.tables, batch.out_rows, batch.copies)
        position, run, starts, tables, out_rows, copies = [np.ascontiguousarray(array, np.int32) for array in arrays]
        given = [
            np.ascontiguousarray(position if name == POSITION else batch.inputs[name], spec.dtype)
            for name, spec in self.executable.inputs.items()
        ]
        call = CBatch(
            len(position),
            len(out_rows),
            len(tables),
            tables.shape[1],
            len(copies),
            pointers([address(array) for array in given]),
            *map(address, (position, run, starts, tables, out_rows, copies)),
            pointers(outputs),
            None if largest is None else address(largest),
            ranked,
        )
        self._step(call)

    def _step(self, call: CBatch) -> None:
        """Raises MemoryError if there is no room for the activations."""
        if self.executable.library.llmc_step(self._handle, ctypes.byref(call)):
            raise MemoryError(self.executable.problem())


class Threads:
    """The threads that OpenMP keeps between steps: a forked child waits for them for ever, for it does not inherit them."""

    owner: int | None = None

    @classmethod
    def use(cls) -> None:
        """Raise UnsupportedError in a child of the process that has stepped with several threads."""
        if cls.owner is None:
            cls.owner = os.getpid()
        if cls.owner != os.getpid():
            raise UnsupportedError(
                "this process was forked from one that has run a model on several threads, which do not survive a fork; "
                "start it by 'spawn', or compile or load the model with threads=1"
            )


def address(array: NDArray[Any]) -> int:
    """Where an array begins in memory."""
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


def pointers(addresses: list[int]) -> Any:
    """A C array of addresses."""
    return (ctypes.c_void_p * max(len(addresses), 1))(*addresses)
