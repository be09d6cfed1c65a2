"""A program taken apart into single ops, and what each should give: for comparing a backend with the reference.

An island is given the reference's values: no error is handed down, and a small difference before a rounding does not become a
large one after it. All islands of a program are lowered together and run in one step; and again token by token, since backends
have other kernels for one row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Node

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.module import SequenceContext, run_node
from llmc.ir.program import Program, origin_of, type_of
from llmc.ir.types import TensorType
from llmc.runtime.contract import Batch, Executable
from llmc.runtime.sequences import Sequences, blocks_for

Values = Mapping[str, NDArray[Any]]
"""Arrays by the names of nodes or outputs."""

Size = Callable[[NDArray[Any]], Any]
"""One number for the numbers of an array."""


def inside(name: str) -> str:
    """The input of the islands that carries a node's value."""
    return f"value_{name}"


def islands(program: Program) -> Program:
    """Every op by itself, as one program: a value that an op reads is an input, a value that it computes an output.

    Whole numbers and truth values are not cut: they are handed on, and compared as they come. Selections of rows are left out;
    every token has a row of everything.
    """
    editor = Editor()
    editor.weights = dict(program.weights)
    made: dict[Node, Any] = {}
    given: dict[Node, Node] = {}

    def operand(arg: Any) -> Any:
        if not isinstance(arg, Node):
            return arg
        value = made[arg]
        kind = type_of(value)
        if arg.op != "call_function" or kind.dtype != "float32" or kind.rows != "T":
            return value
        if arg not in given:
            given[arg] = editor.input(inside(arg.name), TensorType(kind.dtype, kind.shape))
        return given[arg]

    results: dict[str, Node] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            made[node] = editor.input(str(node.target), type_of(node))
        elif node.op == "get_attr":
            made[node] = editor.named_weight(str(node.target))
        elif node.op == "call_function" and node.target is ops.select_rows:
            made[node] = made[node.args[0]]
        elif node.op == "call_function":
            editor.origin = origin_of(node)
            made[node] = editor.named_op(node.name, node.target, *map(operand, node.args), **node.kwargs)
            if type_of(made[node]).streams:
                results[node.name] = made[node]
    editor.outputs = tuple(results)
    editor.graph.output(tuple(results.values()))
    return editor.finish()


def reference(program: Program, tokens: Sequence[int]) -> dict[str, NDArray[Any]]:
    """The value of every node for one sequence, by name, by the semantics of the dialect, with one weight at a time."""
    position = torch.arange(len(tokens))
    context = SequenceContext(position, position)
    inputs = {"input_ids": torch.tensor(list(tokens)), "position": position}
    values: dict[Node, Any] = {}
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "placeholder":
                values[node] = inputs.get(str(node.target), torch.zeros_like(position))
            elif node.op == "call_function":
                weights = {arg: program.weight(arg).evaluate() for arg in node.all_input_nodes if arg.op == "get_attr"}
                values[node] = run_node(node, {**values, **weights}, context)
    return {node.name: value.numpy() for node, value in values.items()}


def run(executable: Executable, tokens: Sequence[int], values: Values | None = None) -> list[dict[str, NDArray[Any]]]:
    """All outputs for all tokens, `[T, ...]`: of one step, and of a step for each token. values: inputs besides the ids.

    A program over whole sequences has one step only, and may give `[1, ...]`.
    """
    if executable.whole_sequences:
        others = {name: np.zeros(len(tokens), np.int64) for name in executable.inputs if name != "position"}
        given = {**others, "input_ids": np.array(tokens), **(values or {})}
        outputs = executable.context(1).step(Batch.of_sequences({name: [given[name]] for name in given}))
        return [{name: np.asarray(value) for name, value in outputs.items()}]
    blocks, found = blocks_for(len(tokens)), []
    for width in (len(tokens), 1):
        context = executable.context(blocks)
        sequences = Sequences(blocks)
        one = sequences.create()
        parts = []
        for start in range(0, len(tokens), width):
            batch = sequences.batch([(one, tokens[start : start + width])], ["all"])
            more = {n: np.ascontiguousarray(value[start : start + width]) for n, value in (values or {}).items()}
            outputs = context.step(dataclasses.replace(batch, inputs={**batch.inputs, **more}))
            parts.append({name: np.asarray(value) for name, value in outputs.items()})
        context.close()
        found.append({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return found


def largest(values: NDArray[Any]) -> Any:
    """The largest magnitude."""
    return np.abs(values).max(initial=0.0)


def worst(found: Sequence[Values], name: str, expected: NDArray[Any], size: Size = largest) -> float:
    """The larger error of a value that was computed in several ways."""
    return max(error(values[name], expected, size) for values in found)


def error(found: NDArray[Any], expected: NDArray[Any], size: Size = largest) -> float:
    """The size of the difference over the size of what was expected; infinite where only one is a number."""
    a, b = found.astype(np.float64), np.broadcast_to(expected, found.shape).astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return float("inf")
    whole, difference = float(size(b[finite])), float(size(a[finite] - b[finite]))
    return difference / whole if whole else difference
