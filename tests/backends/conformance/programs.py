"""Programs of a few nodes, written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Node

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.program import Program
from llmc.ir.score import CAUSAL, SCORE
from llmc.ir.weights import Stored

VOCAB, WIDTH, POSITIONS = 19, 36, 70

Make = Callable[[Editor, Node, Node], Node]
"""What a case is made by: from an editor and two values float32 `[T, WIDTH]` to the result."""


def build(make: Make) -> Program:
    """A program whose one output is the result of `make`, flattened to float32 `[T, ...]`."""
    return build_all({"logits": make})


def build_all(makes: Mapping[str, Make]) -> Program:
    """A program with an output for each: what is made of the same two values, flattened to float32 `[T, ...]`."""
    torch.manual_seed(5)
    editor = Editor()
    ids = editor.input("input_ids")
    tables = [editor.weight(Stored(torch.randn(VOCAB, WIDTH)), name) for name in ("a", "b")]
    a, b = (editor.op(ops.embedding, ids, table) for table in tables)
    drawn, results = torch.random.get_rng_state(), []
    for make in makes.values():
        torch.random.set_rng_state(drawn)  # a case has the same weights alone and beside others
        result = make(editor, a, b)
        if result.meta["type"].dtype != "float32":
            result = editor.op(ops.cast, result, dtype="float32")
        results.append(editor.op(ops.reshape, result, shape=(result.meta["type"].width,)))
    editor.outputs = tuple(makes)
    editor.graph.output(tuple(results))
    return editor.finish()


def weight(editor: Editor, *shape: int, scale: float = 1.0) -> Node:
    """Random numbers in float32."""
    return editor.weight(Stored(torch.randn(shape) * scale), "w")


def heads(editor: Editor, x: Node, count: int = 3) -> Node:
    """`[T, WIDTH]` as `[T, count, WIDTH / count]`."""
    return editor.op(ops.reshape, x, shape=(count, WIDTH // count))


def angles(editor: Editor, pairs: int) -> tuple[Node, Node]:
    """cos and sin `[T, pairs]` of what positions are turned by."""
    position = editor.op(ops.cast, editor.input("position"), dtype="float32")
    turns = editor.op(ops.mul, editor.op(ops.reshape, position, shape=(1,)), weight(editor, pairs, scale=0.3))
    return editor.op(ops.cos, turns), editor.op(ops.sin, turns)


def exact(program: Program, ids: list[int]) -> NDArray[np.float64]:
    """The first output of the reference semantics in float64."""
    return next(iter(exact_all(program, ids).values()))


def exact_all(program: Program, ids: list[int]) -> dict[str, NDArray[np.float64]]:
    """Every output of the reference semantics in float64."""
    module = program.as_module().double()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            return {name: value.numpy() for name, value in module(torch.tensor(ids)).items()}
    finally:
        torch.set_default_dtype(before)


def some_ids(count: int, vocab: int = VOCAB, seed: int = 2) -> list[int]:
    """Random ids."""
    return np.random.default_rng(seed).integers(0, vocab, count).tolist()


def every_output() -> Program:
    """Attention over embeddings; what comes of it for all tokens and for the rows asked for, in three dtypes."""
    torch.manual_seed(5)
    editor = Editor()
    table, turns = (editor.weight(Stored(torch.randn(rows, 8)), "w") for rows in (VOCAB, POSITIONS))
    ids = editor.input("input_ids")
    x = editor.op(ops.embedding, ids, table)
    x = editor.op(ops.add, x, editor.op(ops.embedding, editor.input("position"), turns))
    split = editor.op(ops.reshape, x, shape=(2, 4))
    hidden = editor.op(ops.attention, split, split, split, scale=0.5, score=SCORE, admits=CAUSAL)
    rows = editor.op(ops.reshape, editor.op(ops.select_rows, hidden), shape=(8,))
    editor.outputs = ("rows", "hidden", "next", "above", "above_rows")
    above = editor.op(ops.gt, hidden, 0.0)
    editor.graph.output((rows, hidden, editor.op(ops.add, ids, 1), above, editor.op(ops.select_rows, above)))
    return editor.finish()
