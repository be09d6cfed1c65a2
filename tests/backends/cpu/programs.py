"""Small programs built by hand, and their results on both backends."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.eager.backend import EagerBackend
from llmc.conformance.forms import CACHE_BLOCKS, Runner, relative_error
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.formats import Integer
from llmc.ir.program import Program
from llmc.ir.weights import Encoded, Stored
from llmc.passes.quantization.rounding import round_rows


def program(build, **outputs) -> Program:
    """`build(editor, ids)` gives a node, or one for each name of `outputs`."""
    torch.manual_seed(5)
    editor = Editor()
    made = build(editor, editor.input("input_ids"))
    nodes = made if isinstance(made, tuple) else (made,)
    editor.outputs = tuple(outputs.get("names", ("logits",)))
    editor.graph.output(nodes)
    return editor.finish()


def weight(editor, name, *shape):
    return editor.weight(Stored(torch.randn(shape)), name)


def rounded(editor, name, *shape):
    """A weight in int8."""
    return editor.weight(Encoded(Stored(torch.randn(shape)), Integer(8), round_rows), name)


def table(editor, ids, name="table", size=8, rows=50):
    return editor.op(ops.embedding, ids, weight(editor, name, rows, size))


def step(executable, ids, rows=None, threads=2):
    """All outputs of one prefill; rows None: of all tokens."""
    runner = Runner(executable.context(CACHE_BLOCKS, threads))
    batch = runner.sequences.batch([(runner.sequences.create(), list(ids))], ["all"])
    if rows is not None:
        batch = dataclasses.replace(batch, out_rows=np.array(rows, np.int32))
    return {name: np.asarray(values) for name, values in runner.context.step(batch).items()}


def agree(made: Program, ids=tuple(range(40)), tolerance=2e-6, rows=None):
    """Assert that C++ gives what the reference gives, for every output; with one thread bitwise what it gives with two."""
    expected = step(EagerBackend().lower(made), ids, rows)
    executable = CpuBackend().lower(made)
    values = step(executable, ids, rows)
    alone = step(executable, ids, rows, threads=1)
    for name, want in expected.items():
        assert values[name].shape == want.shape and values[name].dtype == want.dtype, name
        assert np.array_equal(values[name], alone[name], equal_nan=want.dtype.kind == "f"), name
        if want.dtype.kind == "f":
            assert relative_error(values[name], want) <= tolerance, name
        else:
            assert np.array_equal(values[name], want), name
    return executable
