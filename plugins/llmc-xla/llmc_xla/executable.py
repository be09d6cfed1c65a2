"""A program at work: weights on the device, XLA's programs by shape, caches that are handed from step to step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct
from numpy.typing import NDArray

from llmc.errors import InputError
from llmc.ir.cost import cache_bytes_per_token
from llmc.ir.program import Program, type_of
from llmc.runtime.contract import BLOCK, Batch, Context, Executable, check_sizes
from llmc.runtime.limits import input_specs
from llmc_xla import formats, shapes
from llmc_xla.shapes import Shape
from llmc_xla.step import Cache, cache_pairs, copy_blocks, step_function

SMALLEST = Shape(tokens=1, chunks=1, length=1, width=shapes.LEAST_WIDTH, rows=1, capacity=shapes.LEAST_CAPACITY)
SMALLEST_WHOLE = Shape(tokens=1, chunks=1, length=1, width=shapes.CHUNK, rows=1, capacity=0, runs=1)
"""Shapes whose code `sources` shows: decoding one sequence, or a whole sequence of one token."""


@contextmanager
def semantics() -> Iterator[None]:
    """int64 is int64 and products of float32 are of float32, in this thread: what the dialect says, whatever the device."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


class XlaExecutable(Executable):
    """`programs`: what XLA has compiled, by Shape, and by (capacity, copies) for copies of blocks.

    XLA chooses how it sums by the sizes of arrays, so that a row's last bits may depend on its company: not `row_exact`.
    """

    row_exact = False

    def __init__(self, program: Program) -> None:
        self.program = program
        self.inputs = input_specs(program)
        self.outputs = {name: type_of(node) for name, node in zip(program.outputs, program.results, strict=True)}
        self.block_bytes = BLOCK * cache_bytes_per_token(program, element_bytes=4)
        self.whole_sequences = program.whole_sequences
        self.entries = [tuple(type_of(value).fixed for value in pair) for pair in cache_pairs(program)]
        self.function = jax.jit(step_function(program), donate_argnums=1)
        self.copy = jax.jit(copy_blocks, donate_argnums=0)
        names = dict.fromkeys(str(node.target) for node in program.graph.nodes if node.op == "get_attr")
        with semantics():
            self.weights = {name: formats.load(program.weights[name]) for name in names}
        self.programs: dict[Any, Any] = {}
        self._lock = Lock()

    def context(self, cache_blocks: int, threads: int | None = None) -> XlaContext:
        """threads is checked and then not used: XLA has one pool of threads for the whole process."""
        return XlaContext(self, check_sizes(cache_blocks, threads)[0])

    def sources(self) -> dict[str, str]:
        return {"stablehlo": self.lowered(self.smallest).as_text(), "hlo": self.compiled(self.smallest).as_text()}

    @property
    def smallest(self) -> Shape:
        """The shape of the smallest step."""
        return SMALLEST_WHOLE if self.whole_sequences else SMALLEST

    def lowered(self, shape: Shape) -> Any:
        """The step of a shape as StableHLO (`jax.stages.Lowered`)."""
        with semantics():
            return self.function.lower(*self.arguments(shape))

    def compiled(self, shape: Shape) -> Any:
        """The step of a shape as XLA compiled it, once."""
        return self._once(shape, lambda: self.lowered(shape))

    def compiled_copy(self, capacity: int, count: int) -> Any:
        """The function that copies `count` blocks of a cache, once compiled."""
        pairs = ShapeDtypeStruct((count, 2), jnp.int32)
        return self._once((capacity, count), lambda: self.copy.lower(self.cache_types(capacity), pairs))

    def _once(self, key: Any, lower: Any) -> Any:
        with self._lock:
            if key not in self.programs:
                with semantics():
                    self.programs[key] = lower().compile()
            return self.programs[key]

    def arguments(self, shape: Shape) -> tuple[Any, Any, Any]:
        """Types of what the step function of a shape takes: weights, cache, arrays."""
        weights = jax.tree.map(lambda array: ShapeDtypeStruct(array.shape, array.dtype), self.weights)
        one = np.zeros(1, np.int32)
        inputs = {name: np.zeros((1, *spec.shape), spec.dtype) for name, spec in self.inputs.items()}
        batch = Batch(inputs, np.array([0, 1], np.int32), one, one[None], one)
        filled = shapes.arrays(batch, shape, self.inputs)
        return weights, self.cache_types(shape.capacity), jax.tree.map(lambda a: ShapeDtypeStruct(a.shape, a.dtype), filled)

    def cache_types(self, capacity: int) -> list[tuple[ShapeDtypeStruct, ...]]:
        """Of a cache with a sink after its blocks."""
        return [tuple(ShapeDtypeStruct((capacity + 1, BLOCK, *entry), jnp.float32) for entry in pair) for pair in self.entries]

    def new_cache(self, capacity: int) -> Cache:
        """Zeros. Raises MemoryError if there is no room on the device."""
        needed = (capacity + 1) * self.block_bytes
        if jax.default_backend() == "cpu" and needed > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
            raise MemoryError(f"no memory for a cache of {capacity} blocks, {needed / 1e9:.1f} GB")
        try:
            return jax.tree.map(lambda kind: jnp.zeros(kind.shape, kind.dtype), self.cache_types(capacity))
        except jax.errors.JaxRuntimeError as error:
            raise MemoryError(f"no memory for a cache of {capacity} blocks, {needed / 1e9:.1f} GB: {error}") from error


class XlaContext(Context):
    """One cache. A step consumes it and leaves the next one in its place, in the same memory."""

    def __init__(self, executable: XlaExecutable, cache_blocks: int) -> None:
        self.executable, self.blocks = executable, cache_blocks
        self.capacity = shapes.capacity_for(cache_blocks)
        self.cache: Cache | None = executable.new_cache(self.capacity)

    def close(self) -> None:
        cache, self.cache = self.cache, None
        for array in jax.tree.leaves(cache):
            array.delete()

    def step(self, batch: Batch) -> dict[str, NDArray[Any]]:
        if self.cache is None:
            raise InputError("this context was closed")
        executable = self.executable
        batch.check(self.blocks, executable.inputs, executable.whole_sequences)
        shape = Shape.of(batch, self.capacity, executable.whole_sequences)
        compiled = executable.compiled(shape)
        arrays = shapes.arrays(batch, shape, executable.inputs)
        with semantics():
            if len(batch.copies):
                pairs = shapes.pairs(batch.copies, self.capacity)
                self.cache = executable.compiled_copy(self.capacity, len(pairs))(self.cache, pairs)
            self.cache, outputs = compiled(executable.weights, self.cache, arrays)
        count = {"T": batch.tokens, "R": len(batch.out_rows), "S": len(batch.first)}
        # Cut off on the host: to do it on the device would compile a program for each number of rows.
        return {name: np.array(outputs[name])[: count[str(kind.rows)]] for name, kind in executable.outputs.items()}
