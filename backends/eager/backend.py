"""The reference: the semantics of the dialect under the step contract, one token at a time.

Each token of a step runs through the whole program alone, on one thread; of a program over whole sequences, each sequence. That
is slow, and it makes a row's bits independent of its company by construction, which is what the other backends are measured
against.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from llmc.errors import InputError
from llmc.ir import ops
from llmc.ir.cost import cache_bytes_per_token
from llmc.ir.formats import INT4
from llmc.ir.module import SequenceContext, run_node
from llmc.ir.program import Program, type_of
from llmc.runtime.contract import BLOCK, POSITION, Backend, Batch, Context, Executable, check_sizes
from llmc.runtime.limits import input_specs


class EagerBackend(Backend):
    """Runs the reference semantics of each op in torch."""

    name = "eager"
    formats = ("f32", "f16", "bf16", "int8", *INT4)
    fused = frozenset(ops.FUSED) - {ops.rope_attention.name}

    def version(self) -> str:
        return f"torch {torch.__version__}"

    def lower(self, program: Program) -> EagerExecutable:
        program.verify()
        return EagerExecutable(program)

    def targets(self) -> tuple[str, ...]:
        return ("torch on CPU",)


class EagerExecutable(Executable):
    """A program with its weights evaluated."""

    row_exact = True

    def __init__(self, program: Program) -> None:
        self.program = program
        self.constants = {n: program.weight(n).evaluate() for n in program.graph.nodes if n.op == "get_attr"}
        self.inputs = input_specs(program)
        self.outputs = {name: type_of(node) for name, node in zip(program.outputs, program.results, strict=True)}
        self.block_bytes = BLOCK * cache_bytes_per_token(program, element_bytes=4)
        self.whole_sequences = program.whole_sequences

    def context(self, cache_blocks: int, threads: int | None = None) -> EagerContext:
        return EagerContext(self, check_sizes(cache_blocks, threads)[0])

    def sources(self) -> dict[str, str]:
        return {"program.txt": str(self.program)}


@dataclass
class Cache:
    """Keys `[blocks, BLOCK, G, D]` and values `[blocks, BLOCK, G, Dv]` of one pair of nodes."""

    keys: Tensor
    values: Tensor


class EagerContext(Context):
    """One cache for each (key, value) pair of nodes."""

    def __init__(self, executable: EagerExecutable, cache_blocks: int) -> None:
        self.executable, self.blocks, self.closed = executable, cache_blocks, False
        self.caches: dict[tuple[Any, Any], Cache] = {}
        for node in [] if executable.whole_sequences else executable.program.find("attention"):
            pair = (node.args[1], node.args[2])
            shapes = [(cache_blocks, BLOCK, *type_of(value).fixed) for value in pair]
            try:
                self.caches[pair] = Cache(*(torch.zeros(shape) for shape in shapes))
            except RuntimeError as error:  # torch has no error of its own for it
                raise MemoryError(f"no memory for a cache of {cache_blocks} blocks: {error}") from error

    def close(self) -> None:
        self.closed = True
        self.caches.clear()

    def step(self, batch: Batch) -> dict[str, NDArray[Any]]:
        if self.closed:
            raise InputError("this context was closed")
        executable = self.executable
        batch.check(self.blocks, executable.inputs, executable.whole_sequences)
        if executable.whole_sequences:
            return self.sequences(batch)
        sources, targets = torch.from_numpy(batch.copies.astype(np.int64)).T
        for cache in self.caches.values():
            cache.keys[targets], cache.values[targets] = cache.keys[sources], cache.values[sources]
        wanted = set(batch.out_rows.tolist())
        with single_thread(), torch.no_grad():
            entries = [self.token(batch, index, index in wanted) for index in range(batch.tokens)]
        rows = {"T": range(batch.tokens), "R": batch.out_rows.tolist()}
        outputs = {}
        for i, (name, kind) in enumerate(executable.outputs.items()):
            chosen = [entries[row][i] for row in rows[str(kind.rows)]]
            outputs[name] = torch.cat(chosen).numpy() if chosen else np.zeros((0, *kind.fixed), kind.dtype)
        return outputs

    def sequences(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Run whole sequences, one after the other."""
        executable = self.executable
        with single_thread(), torch.no_grad():
            bounds = zip(batch.starts[:-1].tolist(), batch.starts[1:].tolist(), strict=True)
            runs = [self.sequence(batch, slice(start, stop)) for start, stop in bounds]
        outputs = {}
        for i, (name, kind) in enumerate(executable.outputs.items()):
            values = torch.cat([run[i] for run in runs]).numpy()
            outputs[name] = values[batch.out_rows] if kind.rows == "R" else values
        return outputs

    def sequence(self, batch: Batch, tokens: slice) -> list[Any]:
        """Run one sequence: its entries of each output, of one of rows R those of all its tokens."""
        program = self.executable.program
        values: dict[Node, Any] = dict(self.executable.constants)
        position = torch.from_numpy(batch.position[tokens].astype(np.int64))
        for node in program.graph.nodes:
            if node.op == "placeholder":
                values[node] = position if node.target == POSITION else torch.tensor(batch.inputs[node.target][tokens])
            elif node.op == "call_function":
                values[node] = run_node(node, values, SequenceContext(position, position))
        return [values[node] for node in program.results]

    def token(self, batch: Batch, index: int, wanted: bool) -> list[Any]:
        """Run one token: its entry of each output, None for one of rows R if the row is not wanted."""
        program = self.executable.program
        values: dict[Node, Any] = dict(self.executable.constants)
        position = torch.tensor([int(batch.position[index])])
        table = torch.from_numpy(batch.tables[batch.run[index]].astype(np.int64))
        for node in program.graph.nodes:
            if node.op == "placeholder":
                here = slice(index, index + 1)
                values[node] = position if node.target == POSITION else torch.tensor(batch.inputs[node.target][here])
            elif node.op == "call_function":
                if type_of(node).rows == "R" and not wanted:
                    continue
                if node.target is ops.attention:
                    values[node] = self.attend(node, values, position, table)
                else:
                    values[node] = run_node(node, values, SequenceContext(position, position))
        return [values.get(node) for node in program.results]

    def attend(self, node: Node, values: dict[Node, Any], position: Tensor, table: Tensor) -> Tensor:
        """Write the token's key and value, then attend to everything its sequence has so far."""
        key, value = node.args[1], node.args[2]
        cache = self.caches[key, value]
        now = int(position)
        block, slot = int(table[now // BLOCK]), now % BLOCK
        cache.keys[block, slot], cache.values[block, slot] = values[key][0], values[value][0]  # type: ignore[index]
        used = table[: now // BLOCK + 1]
        keys, history = (stored[used].flatten(0, 1)[: now + 1] for stored in (cache.keys, cache.values))
        query: Any = node.args[0]
        rest: list[Any] = [values.get(arg) for arg in node.args[3:]]  # type: ignore[arg-type]
        context = SequenceContext(position, torch.arange(now + 1))
        # Operands in their places rather than by node: the query's node may be that of the key as well.
        return ops.attention.reference(values[query], keys, history, *rest, **node.kwargs, context=context)


_stepping = RLock()


@contextmanager
def single_thread() -> Iterator[None]:
    """torch on one thread: how it splits sums must not depend on the machine.

    The number is the whole process's, so only one thread at a time may change it and put it back.
    """
    with _stepping:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
