"""Gates that are computed by the products they are made of: no bit tells, on every instruction set that this processor has."""

import re

import numpy as np
import pytest

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.targets import TARGETS, best
from llmc.conformance.formats import stored
from llmc.ir import ops
from llmc.ir.decompose import decompose
from tests.backends.cpu.programs import program, step, weight

ROWS, K = 61, 70
CASES = {
    "three-panels": ("int8", 48, "relu", True),
    "groups": ("int4g64z", 80, "gelu_tanh", False),
    "no-whole-panels": ("int8", 21, "silu", True),
}
"""Format, outputs, activation, whether there are biases."""


def gates(e, ids):
    x = e.op(ops.embedding, ids, weight(e, "table", ROWS, K))
    results = []
    for name, (form, n, activation, biased) in CASES.items():
        operands = [e.weight(stored(form, 2 * n, K), f"w_{name}"), *([weight(e, f"bias_{name}", 2 * n)] if biased else [])]
        results.append(e.op(ops.gated_linear, x, *operands, activation=activation, activations="int8"))
    return tuple(results)


@pytest.fixture(scope="module")
def made():
    return program(gates, names=list(CASES))


def chosen(target):
    usual = target.name in {best().name, "avx2"}
    return pytest.param(target, id=target.name, marks=[] if usual else pytest.mark.slow)


@pytest.mark.parametrize("target", [chosen(target) for target in TARGETS.values() if not target.lacking])
def test_no_bit_tells_gates_that_products_compute_from_others(made, target):
    backend, ids = CpuBackend(target), [(7 * i) % ROWS for i in range(103)]
    want, whole = step(backend.lower(decompose(made)), ids), backend.lower(made)
    for count, threads in ((1, 1), (1, 2), (5, 2), (7, 2), (12, 1), (13, 2), (31, 2), (103, 1), (103, 3)):
        got = step(whole, ids[:count], threads=threads)
        for name in CASES:
            assert got[name].any() and np.array_equal(got[name], want[name][:count]), (name, count, threads)


def test_products_of_whole_numbers_whose_gates_fill_panels_compute_them(made):
    code = next(iter(CpuBackend().lower(made).sources().values()))
    found = {name for name, (_, n, kind, _) in CASES.items() if re.search(rf"<{2 * n}, {K}\b[^>]*, {kind}_>", code)}
    assert found == {"three-panels", "groups"}
