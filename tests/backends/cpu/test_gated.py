"""Gates that are computed by the products they are made of: no bit tells, on every instruction set that this processor has."""

import re

import numpy as np
import pytest
import torch

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.pack import LANES
from llmc.backends.cpu.targets import TARGETS, best
from llmc.conformance.formats import stored
from llmc.ir import ops
from llmc.ir.decompose import decompose
from llmc.ir.formats import Integer
from llmc.ir.weights import Encoded, Stored
from llmc.passes.quantization.rounding import round_rows
from tests.backends.cpu.programs import program, step, weight

ROWS, K = 61, 70
CASES = {
    "three-panels": ("int8", 48, "relu", True),
    "groups": ("int4g64z", 80, "gelu_tanh", False),
    "no-whole-panels": ("int8", 21, "silu", True),
    "silu": ("int4g32", 96, "silu", False),
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
    backend, ids = CpuBackend(target), [(7 * i) % ROWS for i in range(263)]
    want, whole = step(backend.lower(decompose(made)), ids), backend.lower(made)
    for count, threads in ((1, 1), (1, 2), (5, 2), (7, 2), (12, 1), (13, 2), (31, 2), (103, 1), (103, 3), (263, 2)):
        got = step(whole, ids[:count], threads=threads)
        for name in CASES:
            assert got[name].any() and np.array_equal(got[name], want[name][:count]), (name, count, threads)


@pytest.mark.parametrize("target", [chosen(target) for target in TARGETS.values() if not target.lacking])
def test_gates_are_accurate_for_all_sizes_of_numbers(target):
    """Weights are zero, so that biases are what gates are made of, and ones are multiplied with them."""
    edges = [87.5, 100, 1e4, 1e13, 1e14, 1e30, 3e38, np.inf, np.nan]
    sizes = np.concatenate([np.logspace(-37, 1.9, 1000), np.linspace(0.01, 86, 1000), edges])
    x = np.concatenate([sizes, -sizes, np.zeros(-2 * sizes.size % LANES)]).astype(np.float32)
    biases = torch.from_numpy(np.concatenate([x, np.ones_like(x)]))

    def build(e, ids):
        rows = e.op(ops.embedding, ids, weight(e, "table", ROWS, K))
        zeros = e.weight(Encoded(Stored(torch.zeros(2 * x.size, K)), Integer(8), round_rows), "w")
        return e.op(ops.gated_linear, rows, zeros, e.weight(Stored(biases), "bias"), activation="silu", activations="int8")

    got = step(CpuBackend(target).lower(program(build)), [3])["logits"][0].astype(np.float64)
    wide = x.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        want = wide / (1 + np.exp(-wide))
        near = (np.abs(got - want) <= np.where(wide > -87, 6e-7 * np.abs(want), 2e-36)) | (got == want)
        near |= np.isnan(got) & (np.isnan(wide) | (wide == -np.inf))
    assert near.all(), list(zip(x[~near], got[~near], want[~near], strict=True))


def test_products_of_whole_numbers_whose_gates_fill_panels_compute_them(made):
    code = next(iter(CpuBackend().lower(made).sources().values()))
    found = {name for name, (_, n, kind, _) in CASES.items() if re.search(rf"<{2 * n}, {K}\b[^>]*, {kind}_>", code)}
    assert found == {"three-panels", "groups", "silu"}
