"""Fused ops in C++: no bit tells them from the ops they stand for, and what they save is not done."""

import numpy as np
import pytest

from llmc.backends.cpu.backend import CpuBackend
from llmc.conformance import models
from llmc.conformance.formats import stored
from llmc.conformance.forms import CACHE_BLOCKS, chunked
from llmc.conformance.programs import some_ids
from llmc.ir import ops
from llmc.ir.decompose import decompose
from llmc.passes.fusion.residual_norm import FuseResidualNorm
from llmc.passes.fusion.rope_cache import FuseRopeCache
from llmc.passes.fusion.rounding import FuseRounding
from llmc.pipeline.base import PassContext
from tests.backends.cpu.programs import program as built
from tests.backends.cpu.programs import step, table
from tests.passes.programs import WIDTH, program

IDS = range(3, 40)


def product(m, x, size):
    return m.op(ops.linear, x, m.weight(stored("int8", size, int(x.meta["type"].shape[-1])), "w"), activations="int8")


def norm(m, x):
    return m.op(ops.rms_norm, x, m.random(WIDTH, name="gain"), eps=1e-5)


def layers(m, count=4):
    """Gated feed-forwards with residuals: sums and norms go from layer to layer."""
    total = m.x
    for _ in range(count):
        gate, up = (product(m, norm_of, 40) for norm_of in [norm(m, total)] for _ in range(2))
        total = m.op(ops.add, total, product(m, m.op(ops.gated, gate, up, activation="silu"), WIDTH))
    return norm(m, total)


def fused(before, *passes):
    for item in passes:
        before = item.run(before, PassContext(item.name))
    return before


@pytest.fixture(scope="module")
def executables():
    """Of a program, and with its residuals, its roundings, and both fused."""
    before, backend = program(layers), CpuBackend()
    programs = {
        "apart": before,
        "residual": fused(before, FuseResidualNorm()),
        "rounding": fused(before, FuseRounding()),
        "both": fused(before, FuseResidualNorm(), FuseRounding()),
    }
    return {name: backend.lower(decompose(made, backend.fused)) for name, made in programs.items()}


def source(executable):
    return next(iter(executable.sources().values()))


@pytest.mark.parametrize("name", ["residual", "rounding", "both"])
def test_no_bit_changes(executables, name):
    expected, found = (step(executables[key], IDS)["logits"] for key in ("apart", name))
    assert np.array_equal(found, expected)


def test_products_that_read_one_norm_share_one_rounding(executables):
    code = source(executables["apart"])
    body = code[code.index("step.barrier(team);\n    for (int l") :]
    assert body.count(f"quantize_rows<{WIDTH}, ") == 1 and body.count("linear_w8a8<40") == 2


def test_rows_that_are_rounded_where_they_are_made_are_not_rounded_again(executables):
    assert "quantize_rows<40" in source(executables["apart"]) and "quantize_rows<40" not in source(executables["both"])


def test_sums_and_norms_are_made_where_the_next_layer_reads_them(executables):
    code = source(executables["residual"])
    body = code[code.index("for (int l = 0; l < ") :]
    body = body[body.index("const Layer& layer") : body.index("std::swap")]
    assert "add_rms_norm<1" in body and "memcpy" not in body


def test_rows_stay_floats_where_what_follows_the_layers_reads_the_last_ones():
    def make(m):
        total = m.x
        for _ in range(3):
            rows = m.op(ops.gated, product(m, total, 40), product(m, total, 40), activation="silu")
            total = m.op(ops.add, total, product(m, rows, WIDTH))
        return m.op(ops.add, total, product(m, rows, WIDTH))

    before, backend = program(make), CpuBackend()
    expected, found = (step(backend.lower(made), IDS)["logits"] for made in (before, fused(before, FuseRounding())))
    assert np.array_equal(found, expected)


def test_halves_of_a_sum_and_its_norm_may_be_read_in_several_ways():
    """Some by the caller, from memory of its own."""

    def make(editor, ids):
        x, y = (table(editor, ids, name, size=24) for name in "xy")
        whole = editor.op(ops.add_rms_norm, x, y, eps=1e-5)
        halves = [editor.op(ops.slice_, whole, dim=1, start=i, stop=i + 1) for i in (0, 1, 0)]
        total, norm, again = (editor.op(ops.reshape, half, shape=(24,)) for half in halves)
        return total, norm, editor.op(ops.silu, again), halves[1], whole

    made = built(make, names=("total", "norm", "again", "half", "whole"))
    expected, found = (step(CpuBackend().lower(lowered), IDS) for lowered in (decompose(made), made))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_model_that_turns_keys_on_their_way_into_the_cache_changes_no_bit():
    ids = some_ids(70, models.captured("library-rope").vocab_size)
    before = models.program("library-rope", "fuse")
    after = fused(before, FuseRopeCache())
    assert after.find("rope_attention") and not after.find("rope")
    lowered = [CpuBackend().lower(each) for each in (before, after)]
    assert "write_turned_keys<" in source(lowered[1]) and "write_keys<" not in source(lowered[1])
    for size in (70, 1, 13):
        apart, turned = (chunked(each.context(CACHE_BLOCKS, threads=2), ids, size) for each in lowered)
        np.testing.assert_array_equal(turned, apart)
