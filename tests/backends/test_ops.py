"""Every op of the dialect on both backends, against its reference semantics."""

import numpy as np
import pytest
import torch

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.emit import EMIT
from llmc.backends.eager.backend import EagerBackend
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.op import OPS
from llmc.ir.score import CAUSAL, HEAD, SCORE, K, Q, apply, const, per_head
from llmc.ir.weights import Stored
from tests.backends.forms import chunked, prefill

VOCAB, WIDTH, TOKENS = 19, 36, 39
SMALL = (3, 12)


def build(make):
    """A program around `make(editor, a, b)` with a, b float32 [T, 36]; the result is flattened."""
    torch.manual_seed(5)
    editor = Editor()
    ids = editor.input("input_ids")
    tables = [editor.weight(Stored(torch.randn(VOCAB, WIDTH)), name) for name in ("a", "b")]
    a, b = (editor.op(ops.embedding, ids, table) for table in tables)
    result = make(editor, a, b)
    if result.meta["type"].dtype != "float32":
        result = editor.op(ops.cast, result, dtype="float32")
    result = editor.op(ops.reshape, result, shape=(result.meta["type"].width,))
    editor.outputs = ("logits",)
    editor.graph.output((result,))
    return editor.finish()


def heads(e, x, count=3):
    return e.op(ops.reshape, x, shape=(count, WIDTH // count))


def weight(e, *shape, scale=1.0):
    return e.weight(Stored(torch.randn(shape) * scale), "w")


def positive(e, x):
    return e.op(ops.add, e.op(ops.abs_, x), 0.1)


def attend(score=SCORE, admits=CAUSAL, groups=3, sinks=False):
    def make(e, a, b):
        k = e.op(ops.slice_, heads(e, b), dim=1, start=0, stop=groups)
        s = weight(e, 3) if sinks else None
        return e.op(ops.attention, heads(e, a), k, k, s, scale=0.3, score=score, admits=admits)

    return make


def angles(e, pairs):
    position = e.op(ops.cast, e.input("position"), dtype="float32")
    turns = e.op(ops.mul, e.op(ops.reshape, position, shape=(1,)), weight(e, pairs, scale=0.3))
    return e.op(ops.cos, turns), e.op(ops.sin, turns)


WINDOW = apply("logical_and", CAUSAL, apply("lt", apply("sub", Q, K), const(5)))
SLOPES = per_head([0.5, 0.25, 0.125])
CASES = {
    **{
        name: (lambda e, a, b, o=o, name=name: e.op(o, positive(e, a) if name in ("log", "sqrt", "rsqrt") else a))
        for name, o in ops.UNARY.items()
    },
    **{
        name: (lambda e, a, b, o=o: e.op(o, a, b))
        for name, o in ops.BINARY.items()
        if name not in ("pow", "logical_and", "logical_or")
    },
    "pow": lambda e, a, b: e.op(ops.pow_, positive(e, a), 1.7),
    "logical_and": lambda e, a, b: e.op(ops.logical_and, e.op(ops.gt, a, 0.0), e.op(ops.gt, b, 0.0)),
    "logical_or": lambda e, a, b: e.op(ops.logical_or, e.op(ops.gt, a, 0.0), e.op(ops.lt, b, 0.3)),
    "logical_not": lambda e, a, b: e.op(ops.logical_not, e.op(ops.gt, a, 0.0)),
    "where": lambda e, a, b: e.op(ops.where, e.op(ops.gt, a, 0.0), a, e.op(ops.mul, b, 2.0)),
    "where-number": lambda e, a, b: e.op(ops.where, e.op(ops.gt, a, 0.0), 1.5, b),
    "cast": lambda e, a, b: e.op(ops.cast, e.op(ops.mul, a, 3.0), dtype="int64"),
    "gelu": lambda e, a, b: e.op(ops.gelu, a, approximate="none"),
    "gelu-tanh": lambda e, a, b: e.op(ops.gelu, a, approximate="tanh"),
    "gated": lambda e, a, b: e.op(ops.gated, a, b, activation="silu"),
    "gated-gelu": lambda e, a, b: e.op(ops.gated, a, b, activation="gelu_tanh"),
    "add-number-left": lambda e, a, b: e.op(ops.sub, 1.0, a),
    "mul-broadcast": lambda e, a, b: e.op(ops.mul, heads(e, a), e.op(ops.slice_, heads(e, b), dim=1, start=1, stop=2)),
    "mul-weight": lambda e, a, b: e.op(ops.mul, heads(e, a), weight(e, 3, 1)),
    "mul-row-weight": lambda e, a, b: e.op(ops.mul, heads(e, a), weight(e, 12)),
    "embedding": lambda e, a, b: e.op(ops.add, a, b),
    "embedding-position": lambda e, a, b: e.op(ops.embedding, e.input("position"), weight(e, 50, 8)),
    "linear": lambda e, a, b: e.op(ops.linear, a, weight(e, 21, WIDTH), weight(e, 21)),
    "linear-heads": lambda e, a, b: e.op(ops.linear, heads(e, a), weight(e, 5, 12)),
    "linear-of-slice": lambda e, a, b: e.op(
        ops.linear, e.op(ops.slice_, a, dim=1, start=7, stop=27), weight(e, 33, 20)
    ),
    "linear-of-sliced-heads": lambda e, a, b: e.op(
        ops.linear, e.op(ops.slice_, heads(e, a), dim=1, start=1, stop=3), weight(e, 5, 12)
    ),
    "linear-long": lambda e, a, b: e.op(ops.linear, e.op(ops.linear, a, weight(e, 600, WIDTH)), weight(e, 18, 600)),
    "matmul": lambda e, a, b: e.op(ops.matmul, heads(e, a), e.op(ops.permute, heads(e, b), dims=(2, 1))),
    "matmul-batched": lambda e, a, b: e.op(
        ops.matmul, e.op(ops.reshape, a, shape=(2, 3, 6)), e.op(ops.reshape, b, shape=(2, 6, 3))
    ),
    "rms_norm": lambda e, a, b: e.op(ops.rms_norm, a, weight(e, WIDTH), eps=1e-5),
    "rms_norm-heads": lambda e, a, b: e.op(ops.rms_norm, heads(e, a), eps=1e-5),
    "layer_norm": lambda e, a, b: e.op(ops.layer_norm, a, weight(e, WIDTH), weight(e, WIDTH), eps=1e-5),
    "layer_norm-plain": lambda e, a, b: e.op(ops.layer_norm, heads(e, a), eps=1e-5),
    "rope": lambda e, a, b: e.op(ops.rope, heads(e, a), *angles(e, 6), layout="halves"),
    "rope-partial": lambda e, a, b: e.op(ops.rope, heads(e, a), *angles(e, 4), layout="halves"),
    "rope-pairs": lambda e, a, b: e.op(ops.rope, heads(e, a), *angles(e, 6), layout="pairs"),
    "attention": attend(),
    "attention-grouped": attend(groups=1),
    "attention-window": attend(admits=WINDOW),
    "attention-softcap": attend(apply("mul", apply("tanh", apply("div", SCORE, const(2.0))), const(2.0))),
    "attention-bias": attend(apply("add", SCORE, apply("mul", SLOPES, apply("sub", K, Q)))),
    "attention-sinks": attend(sinks=True),
    "attention-where": attend(apply("where", apply("eq", HEAD, const(1)), SCORE, apply("mul", SCORE, const(0.5)))),
    "sum": lambda e, a, b: e.op(ops.sum_, heads(e, a), dims=(1,), keepdim=False),
    "mean": lambda e, a, b: e.op(ops.mean, heads(e, a), dims=(2,), keepdim=True),
    "mean-all": lambda e, a, b: e.op(ops.mean, heads(e, a), dims=(1, 2), keepdim=False),
    "amax": lambda e, a, b: e.op(ops.amax, heads(e, a), dims=(1,), keepdim=True),
    "amin": lambda e, a, b: e.op(ops.amin, heads(e, a), dims=(2,), keepdim=False),
    "softmax": lambda e, a, b: e.op(ops.softmax, heads(e, a), dim=1),
    "softmax-last": lambda e, a, b: e.op(ops.softmax, a, dim=1),
    "reshape": lambda e, a, b: e.op(ops.mul, e.op(ops.reshape, a, shape=(2, 18)), e.op(ops.reshape, b, shape=(2, 18))),
    "permute": lambda e, a, b: e.op(ops.permute, e.op(ops.reshape, a, shape=(2, 3, 6)), dims=(3, 1, 2)),
    "slice": lambda e, a, b: e.op(ops.slice_, a, dim=1, start=1, stop=30, step=4),
    "slice-inner": lambda e, a, b: e.op(ops.slice_, heads(e, a), dim=2, start=2, stop=9),
    "concat": lambda e, a, b: e.op(ops.concat, heads(e, a), heads(e, b), heads(e, a), dim=2),
    "concat-outer": lambda e, a, b: e.op(ops.concat, heads(e, a), e.op(ops.neg, heads(e, b)), dim=1),
    "expand": lambda e, a, b: e.op(ops.expand, e.op(ops.reshape, a, shape=(3, 1, 12)), shape=(3, 4, 12)),
    "select_rows": lambda e, a, b: e.op(ops.exp, e.op(ops.select_rows, a)),
}


def test_every_op_of_the_dialect_has_a_case_and_cpp():
    assert set(OPS) == {name.split("-")[0] for name in CASES}
    assert set(OPS) == set(EMIT)


@pytest.mark.parametrize("name", CASES)
def test_op_agrees_with_its_reference_semantics(name):
    program = build(CASES[name])
    ids = np.random.default_rng(2).integers(0, VOCAB, TOKENS).tolist()
    with torch.no_grad():
        module = program.as_module().double()
        torch.set_default_dtype(torch.float64)
        expected = module(torch.tensor(ids))["logits"].numpy()
        torch.set_default_dtype(torch.float32)
    for backend in (EagerBackend(), CpuBackend()):
        executable = backend.lower(program)
        values = prefill(executable.context(64, threads=2), ids)
        error = np.linalg.norm(values - expected) / max(np.linalg.norm(expected), 1e-9)
        assert error < (0.02 if name == "cast" else 2e-6), f"{backend.name}: {error}"
        assert np.array_equal(values, chunked(executable.context(64, threads=1), ids, 7)), backend.name
