"""Keys and values that are rounded on their way into the cache."""

from pathlib import Path

import numpy as np
import pytest

import llmc
from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.generate import Generator
from llmc.cli.inspect import summary
from llmc.conformance.forms import relative_error
from llmc.ir import ops
from llmc.ir.cost import cache_bytes_per_token
from llmc.ir.score import CAUSAL, SCORE
from llmc.runtime.contract import BLOCK
from llmc.runtime.model import CompiledModel
from tests.backends.cpu.programs import agree, program, step, table

MODEL = Path(__file__).parents[3] / "examples" / "tiny_lm" / "model"
IDS = np.random.default_rng(0).integers(1, 400, 300).tolist()
CLOSE = {"int8": 5e-4, "bfloat16": 2e-4}
"""A number that lies between two it may be rounded to is not the same in float32 of another order."""


@pytest.mark.parametrize("to", CLOSE)
def test_model_with_a_rounded_cache_agrees_with_eager_and_needs_less_memory(to):
    rounded = {"name": "quantize-kv", "to": to}
    reference = llmc.compile(MODEL, recipe="fuse", passes=[rounded], backend="eager")
    compiled = CompiledModel(reference.program, CpuBackend().lower(reference.program), reference.info)
    logits = compiled([IDS])[0]
    assert relative_error(logits, reference([IDS])[0]) <= CLOSE[to]
    assert np.array_equal(compiled([IDS[:131], IDS[:7], IDS])[2], logits)
    assert compiled.executable.block_bytes == BLOCK * cache_bytes_per_token(compiled.program)
    assert compiled.executable.block_bytes < reference.executable.block_bytes // {"int8": 3, "bfloat16": 1}[to]
    for model in (compiled, reference):  # each says what its backend keeps: eager keeps float32
        assert f"cache a token      {model.executable.block_bytes // BLOCK} bytes" in model.explain()
        assert summary(model)["cache_bytes_per_token"] == model.executable.block_bytes // BLOCK
    source = compiled.executable.sources()["model.cpp"]
    assert f"write_rounded<Kept::{to}, true" in source and "restore_rows" not in source and "shorten_rows" not in source


def attended(e, ids, also):
    """An attention over rounded keys and values, and what else reads the keys."""
    q, k, v = (e.op(ops.reshape, table(e, ids, name, size=16), shape=(2, 8)) for name in "qkv")
    k, v = (e.op(ops.round_rows, x, to="int8") for x in (k, v))
    return e.op(ops.attention, k if also == "query" else q, k, v, scale=0.4, score=SCORE, admits=CAUSAL), k


@pytest.mark.parametrize("also", ["output", "query"])
def test_rounded_rows_that_are_read_elsewhere_are_there_as_floats_too(also):
    made = program(lambda e, ids: attended(e, ids, also), names=("mixed", "keys"))
    assert "write_rounded<Kept::int8" in agree(made).sources()["model.cpp"]


def test_key_that_is_no_number_reaches_later_tokens_only():
    def build(e, ids):
        x = e.op(ops.reshape, e.op(ops.log, e.op(ops.cast, ids, dtype="float32")), shape=(1, 1))  # -infinity of id 0
        k = e.op(ops.round_rows, x, to="int8")
        return e.op(ops.attention, x, k, k, scale=1.0, score=SCORE, admits=CAUSAL)

    values = step(CpuBackend().lower(program(build)), [5, 3, 7, 0, 9])["logits"]
    assert np.isfinite(values[:3]).all() and np.isnan(values[3:]).all()


@pytest.mark.parametrize("to", CLOSE)
def test_rows_of_odd_sizes_have_room_in_every_block(to):
    sizes = {"one": (1, 1), "even": (3, 10), "odd": (1, 5), "odd-heads": (3, 7)}

    def attend(e, ids, heads, size):
        q, k, v = (e.op(ops.reshape, table(e, ids, name, size=heads * size), shape=(heads, size)) for name in "qkv")
        k, v = (e.op(ops.round_rows, x, to=to) for x in (k, v))
        return e.op(ops.attention, q, k, v, scale=0.4, score=SCORE, admits=CAUSAL)

    made = program(lambda e, ids: tuple(attend(e, ids, *size) for size in sizes.values()), names=tuple(sizes))
    entries = [heads * (size + 4 if to == "int8" else 2 * size) for heads, size in sizes.values()]  # in bytes
    assert [4 * floats for floats in Generator(made).caches.floats] == [BLOCK * entry for entry in entries for _ in "kv"]
    agree(made, ids=tuple(i % 50 for i in range(5 * BLOCK)))
