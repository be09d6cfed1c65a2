"""The reference: the semantics of the dialect under the step contract, one token at a time.

Each token of a step runs through the whole program alone, on one thread. That is slow, and it makes a row's bits independent of
its company by construction, which is what the other backends are measured against.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from llmc.ir import ops
from llmc.ir.module import SequenceContext, run_node
from llmc.ir.program import Program, type_of
from llmc.runtime.contract import BLOCK, Backend, Batch, Context, Executable


class EagerBackend(Backend):
    """Runs the reference semantics of each op in torch."""

    name = "eager"
    formats = ("f32", "f16", "bf16", "int8")

    def lower(self, program: Program) -> EagerExecutable:
        program.verify()
        return EagerExecutable(program)


class EagerExecutable(Executable):
    """A program with its weights evaluated."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.constants = {n: program.weight(n).evaluate() for n in program.graph.nodes if n.op == "get_attr"}

    def context(self, cache_blocks: int, threads: int | None = None) -> EagerContext:
        return EagerContext(self, cache_blocks)

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
        self.executable, self.blocks = executable, cache_blocks
        self.caches: dict[tuple[Any, Any], Cache] = {}
        for node in executable.program.find("attention"):
            pair = (node.args[1], node.args[2])
            shapes = [(cache_blocks, BLOCK, *type_of(value).fixed) for value in pair]
            self.caches[pair] = Cache(*(torch.zeros(shape) for shape in shapes))

    def step(self, batch: Batch) -> dict[str, NDArray[Any]]:
        batch.check(self.blocks)
        for cache in self.caches.values():
            for source, target in batch.copies:
                cache.keys[target], cache.values[target] = cache.keys[source], cache.values[source]
        rows: dict[int, list[Tensor]] = {}
        wanted = {int(row) for row in batch.out_rows}
        with single_thread(), torch.no_grad():
            for _, start, stop in batch.runs():
                for index in range(start, stop):
                    found = self.token(batch, index, index in wanted)
                    if index in wanted:
                        rows[index] = found
        program = self.executable.program
        outputs = {}
        for i, (name, node) in enumerate(zip(program.outputs, program.results, strict=True)):
            chosen = [rows[int(row)][i] for row in batch.out_rows]
            shape = (0, *type_of(node).fixed)
            outputs[name] = torch.cat(chosen).numpy() if chosen else np.zeros(shape, np.float32)
        return outputs

    def token(self, batch: Batch, index: int, wanted: bool) -> list[Tensor]:
        """Run one token; the outputs, or nothing if its row is not wanted."""
        program = self.executable.program
        values: dict[Node, Any] = dict(self.executable.constants)
        position = torch.tensor([int(batch.position[index])])
        table = torch.from_numpy(batch.blocks[int(batch.sequence[index])].astype(np.int64))
        for node in program.graph.nodes:
            if node.op == "placeholder":
                given = batch.position if node.target == "position" else batch.inputs[node.target]
                values[node] = torch.tensor([int(given[index])])
            elif node.op == "call_function":
                if type_of(node).rows == "R" and not wanted:
                    continue
                if node.target is ops.attention:
                    values[node] = self.attend(node, values, position, table)
                else:
                    values[node] = run_node(node, values, SequenceContext(position, position))
        return [values[node] for node in program.results] if wanted else []

    def attend(self, node: Node, values: dict[Node, Any], position: Tensor, table: Tensor) -> Tensor:
        """Write the token's key and value, then attend to everything its sequence has so far."""
        key, value = node.args[1], node.args[2]
        cache = self.caches[key, value]
        now = int(position)
        block, slot = int(table[now // BLOCK]), now % BLOCK
        cache.keys[block, slot], cache.values[block, slot] = values[key][0], values[value][0]  # type: ignore[index]
        used = table[: now // BLOCK + 1]
        keys, history = (stored[used].flatten(0, 1)[: now + 1] for stored in (cache.keys, cache.values))
        sinks = values[node.args[3]] if len(node.args) > 3 else None
        context = SequenceContext(position, torch.arange(now + 1))
        # Operands in their places rather than by node: the query's node may be that of the key as well.
        return ops.attention.reference(values[node.args[0]], keys, history, sinks, **node.kwargs, context=context)


@contextmanager
def single_thread() -> Iterator[None]:
    """torch on one thread: how it splits sums must not depend on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
