"""Sums with a residual that products are put into: no bit tells, on every instruction set that this processor has."""

import re

import numpy as np
import pytest

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.targets import TARGETS, best
from llmc.conformance.formats import stored
from llmc.ir import ops
from tests.backends.cpu.programs import agree, program, step, weight

ROWS, WIDTH = 61, 144  # panels enough to be split over threads; groups enough to be rounded together, and a part of one
IDS = [(7 * i) % ROWS for i in range(301)]  # enough rows for each thread to have its own
WITHIN = re.compile(r"linear_w[48]a8<[^;]*team, \w+\);")


def product(e, x, name, form="int8", width=WIDTH, biased=False):
    size = int(x.meta["type"].shape[-1])
    bias = [weight(e, f"bias_{name}", width)] if biased else []
    return e.op(ops.linear, x, e.weight(stored(form, width, size), f"w_{name}"), *bias, activations="int8")


def summed(e, ids):
    """Products whose sums alone are read."""
    x = e.op(ops.embedding, ids, weight(e, "table", ROWS, WIDTH))
    first = e.op(ops.add, x, product(e, x, "first"))
    second = e.op(ops.add, product(e, first, "second", "int4g64z", biased=True), x)
    both = e.op(ops.add, product(e, second, "left"), product(e, second, "right"))
    return first, second, both


def apart(e, ids):
    """The same, where products are read as they are too."""
    x = e.op(ops.embedding, ids, weight(e, "table", ROWS, WIDTH))
    one = product(e, x, "first")
    first = e.op(ops.add, x, one)
    two = product(e, first, "second", "int4g64z", biased=True)
    second = e.op(ops.add, two, x)
    left, right = product(e, second, "left"), product(e, second, "right")
    return first, second, e.op(ops.add, left, right), one, two, left, right


def chosen(target):
    usual = target.name in {best().name, "avx2"}
    return pytest.param(target, id=target.name, marks=[] if usual else pytest.mark.slow)


@pytest.mark.parametrize("target", [chosen(target) for target in TARGETS.values() if not target.lacking])
def test_no_bit_tells_where_a_residual_was_added(target):
    names = ("first", "second", "both")
    backend = CpuBackend(target)
    expected = step(backend.lower(program(apart, names=(*names, "one", "two", "left", "right"))), IDS)
    executable = backend.lower(program(summed, names=names))
    assert len(WITHIN.findall(next(iter(executable.sources().values())))) == 3  # of `both`, into the later product
    for count, threads in ((1, 1), (1, 2), (7, 2), (13, 2), (31, 2), (255, 2), (257, 2), (301, 1)):
        found = step(executable, IDS[:count], threads=threads)
        for name in names:
            assert found[name].any() and np.array_equal(found[name], expected[name][:count]), (name, count, threads)


def test_residuals_go_from_layer_to_layer():
    def layers(e, ids, read=False):
        x, more = e.op(ops.embedding, ids, weight(e, "table", ROWS, WIDTH)), []
        for i in range(4):
            for part in (e.op(ops.rms_norm, x, weight(e, f"gain_{i}", WIDTH), eps=1e-5), None):
                y = product(e, part or e.op(ops.silu, x), f"{i}_{len(more)}")
                x, more = e.op(ops.add, x, y), [*more, y]
        return (x, *more) if read else x

    def source(executable):
        return next(iter(executable.sources().values()))

    backend = CpuBackend()
    whole = backend.lower(program(layers))
    names = ("logits", *(f"y{i}" for i in range(8)))
    split = backend.lower(program(lambda e, ids: layers(e, ids, read=True), names=names))
    assert len(WITHIN.findall(source(whole))) == 2 and not WITHIN.findall(source(split))
    for count in (1, 5, 301):
        found, expected = (step(executable, IDS[:count])["logits"] for executable in (whole, split))
        assert np.array_equal(found, expected)


def test_sums_that_are_not_with_one_value_of_their_size_are_made_apart():
    def make(e, ids):
        x = e.op(ops.embedding, ids, weight(e, "table", ROWS, WIDTH))
        with_number = e.op(ops.add, product(e, x, "number"), 1.5)
        with_weight = e.op(ops.add, product(e, x, "weight"), weight(e, "row", WIDTH))
        ragged = e.op(ops.add, product(e, x, "ragged", width=24), e.op(ops.embedding, ids, weight(e, "other", ROWS, 24)))
        twice = product(e, x, "twice")
        return with_number, with_weight, ragged, e.op(ops.add, twice, twice)

    made = program(make, names=("number", "weight", "ragged", "twice"))
    assert not WITHIN.findall(next(iter(CpuBackend().lower(made).sources().values())))
    agree(made, IDS[:9])


@pytest.mark.skipif(bool(TARGETS["avx2"].lacking or best().lacking), reason="for processors with AVX2")
def test_rows_are_rounded_alike_on_other_instruction_sets():
    """Sums of whole numbers are exact, so that only rounding, or the order of groups, could tell."""
    made = program(summed, names=("first", "second", "both"))
    one, other = (step(CpuBackend(target).lower(made), IDS[:9]) for target in (best(), TARGETS["avx2"]))
    assert all(np.array_equal(one[name], other[name]) for name in one)
