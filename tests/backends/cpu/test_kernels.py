"""Numbers at the edges: what is no number, too large, or an id that no table has."""

import math
import subprocess

import numpy as np
import pytest
import torch

from llmc.backends.cpu import toolchain
from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.build import KERNELS
from llmc.backends.cpu.score import number
from llmc.backends.cpu.source import CONTRACT
from llmc.backends.cpu.targets import TARGETS, best
from llmc.backends.eager.backend import EagerBackend
from llmc.ir import ops
from llmc.ir.weights import Stored
from tests.backends.cpu.programs import agree, program, rounded, step, weight

INF, NAN = float("inf"), float("nan")
EDGES = [-INF, -1e30, -1e4, -104.0, -100.0, -88.0, -87.5, -1.0, -0.0, 0.0, 1e-20, 88.0, 88.5, 88.722, 88.73, 95.0, 1e30, INF,
         NAN]  # fmt: skip

USUAL = sorted({best().name, "avx2", "portable"} - {target.name for target in TARGETS.values() if target.lacking})

UNARY = {
    **{name: (lambda e, x, o=o: e.op(o, x)) for name, o in ops.UNARY.items()},
    "gelu": lambda e, x: e.op(ops.gelu, x, approximate="none"),
    "gelu-tanh": lambda e, x: e.op(ops.gelu, x, approximate="tanh"),
    "maximum": lambda e, x: e.op(ops.maximum, x, 0.0),
    "maximum-left": lambda e, x: e.op(ops.maximum, 0.0, x),
    "minimum": lambda e, x: e.op(ops.minimum, x, 0.0),
    "minimum-left": lambda e, x: e.op(ops.minimum, 0.0, x),
    "add-nan": lambda e, x: e.op(ops.add, x, NAN),
    "add-inf": lambda e, x: e.op(ops.add, x, INF),
}


def edges(e, ids, values=EDGES):
    return e.op(ops.embedding, ids, e.weight(Stored(torch.tensor([values] * 50)), "edges"))


@pytest.fixture(scope="module")
def at_the_edges():
    """Results of both backends for each op, made by one program."""
    made = program(lambda e, ids: tuple(build(e, edges(e, ids)) for build in UNARY.values()), names=tuple(UNARY))
    return [step(backend.lower(made), [1]) for backend in (EagerBackend(), CpuBackend())]


@pytest.mark.parametrize("name", UNARY)
def test_op_gives_what_torch_gives_at_the_edges(name, at_the_edges):
    want, got = (results[name][0] for results in at_the_edges)
    with np.errstate(invalid="ignore"):
        close = np.isclose(got, want, rtol=3e-6, atol=1e-37, equal_nan=True) | (got == want)
    if name == "gelu":
        close |= np.array(EDGES) == INF  # torch's vectors give NaN, its scalars infinity
    assert close.all(), [(x, a, b) for x, a, b, c in zip(EDGES, got, want, close, strict=True) if not c]


def test_exponential_of_no_number_is_defined(tmp_path):
    source = '#include "functions.h"\nint main(int n, char**) { return llmc::exp_(n * __builtin_nanf("")) > 0; }\n'
    (tmp_path / "main.cpp").write_text(f"{CONTRACT}\n{source}")
    flags = ["-std=c++17", "-fsanitize=shift,signed-integer-overflow", "-fno-sanitize-recover=all", f"-I{KERNELS}"]
    subprocess.run([*toolchain.command(), *flags, "-o", "main", "main.cpp"], cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("op", [ops.amax, ops.amin], ids=lambda op: op.name)
def test_extremes_propagate_nan_and_work_on_whole_numbers(op):
    def build(e, ids):
        one = e.op(ops.reshape, ids, shape=(1,))
        many = e.op(ops.concat, one, e.op(ops.mul, one, -(2**40)), e.op(ops.neg, one), dim=1)
        with_nan = edges(e, ids, [1.0, NAN, -2.0])
        return tuple(e.op(op, x, dims=(1,), keepdim=True) for x in (many, with_nan, edges(e, ids, [-INF, -INF])))

    made = program(build, names=("whole", "nan", "infinite"))
    want, got = (step(b.lower(made), range(5)) for b in (EagerBackend(), CpuBackend()))
    for name in want:
        assert np.array_equal(got[name], want[name], equal_nan=name != "whole"), name


def test_exponential_is_accurate_everywhere():
    x = torch.linspace(-87, 88.7, 4000)
    made = program(lambda e, ids: e.op(ops.exp, edges(e, ids, x.tolist())))
    got = step(CpuBackend().lower(made), [0])["logits"][0]
    want = np.exp(x.numpy().astype(np.float64))
    assert np.abs(got / want - 1).max() < 2e-7


@pytest.mark.parametrize(("op", "exact"), [(ops.tanh, np.tanh), (ops.erf, np.vectorize(math.erf))], ids=("tanh", "erf"))
def test_functions_of_e_are_accurate_on_either_side_of_their_seams(op, exact):
    x = torch.cat((torch.linspace(-6, 6, 4001), torch.tensor([0.625, -0.625, 1.0, -1.0, 4.0, 1e-30, 60.0])))
    made = program(lambda e, ids: e.op(op, edges(e, ids, x.tolist())))
    got = step(CpuBackend().lower(made), [0])["logits"][0]
    want = exact(x.numpy().astype(np.float64))
    assert np.abs(got - want).max() < 1.5e-7
    assert np.abs(got / want - 1)[want != 0].max() < 3e-7


@pytest.mark.parametrize("target", USUAL)
def test_gelu_is_accurate_for_all_sizes_of_numbers(target):
    """Beside the exact one: to 3e-7 relative from -1 on, and below to a part of the number that went in."""
    sizes = np.concatenate([np.logspace(-44, 38, 3000), np.linspace(0.01, 6, 3000), [0.0, 5.7, 1e-45, 3.4e38]])
    x = np.concatenate([sizes, -sizes]).astype(np.float32)
    made = program(lambda e, ids: e.op(ops.gelu, edges(e, ids, x.tolist()), approximate="none"))
    got = step(CpuBackend().for_target(target).lower(made), [0])["logits"][0].astype(np.float64)
    wide = x.astype(np.float64)
    want = 0.5 * wide * np.vectorize(math.erfc)(-wide / math.sqrt(2))
    error, least = np.abs(got - want), 1e-44  # steps of numbers without a leading one
    assert (error <= 3e-7 * np.abs(want) + least)[x >= -1].all()
    assert (error <= 1e-7 * np.abs(wide) + least).all()
    assert (np.signbit(got) == np.signbit(x)).all() and (got[x < -5.7] == 0).all()


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e-40, 3, -(2**63), 2**62, True])
def test_number_is_a_literal_of_cpp(value):
    assert number(value) == {INF: "INFINITY", -INF: "-INFINITY", 1e-40: "1e-40f", 3: "3", -(2**63): "INT64_MIN",
                             2**62: str(2**62), True: "true"}.get(value, "NAN")  # fmt: skip


TABLES = {
    "plain": lambda e: (weight(e, "table", 7, 32), None),
    "panels": lambda e: (weight(e, "table", 7, 32), "float32"),
    "int8": lambda e: (rounded(e, "table", 7, 32), "int8"),
}


@pytest.mark.parametrize("layout", TABLES)
def test_computed_id_outside_the_table_gives_nan_and_reads_nothing(layout):
    """Ids that the caller gives are checked before the step; those that the program computes are not."""

    def build(e, ids):
        table, head = TABLES[layout](e)
        x = e.op(ops.embedding, e.op(ops.mul, e.op(ops.sub, ids, 3), 2**36), table)
        return x if head is None else (x, e.op(ops.linear, x, table, activations=head))

    names = ("row", "head") if layout != "plain" else ("row",)
    results = step(CpuBackend().lower(program(build, names=names)), [3, 2, 4, 3])
    for values in results.values():
        assert np.isnan(values[1:3]).all() and np.isfinite(values[[0, 3]]).all()


@pytest.mark.parametrize("bad", [NAN, INF])
def test_rounding_a_row_with_no_finite_scale_gives_nan_to_that_row_alone(bad):
    def build(e, ids):
        rows = torch.randn(50, 40)
        rows[7, 11] = bad
        x = e.op(ops.embedding, ids, e.weight(Stored(rows), "rows"))
        return e.op(ops.linear, x, rounded(e, "w", 5, 40), activations="int8")

    values = step(CpuBackend().lower(program(build)), [6, 7, 8])["logits"]
    assert np.isnan(values[1]).all() and np.isfinite(values[[0, 2]]).all()


def test_weight_read_by_a_product_and_elementwise_is_there_for_both():
    def build(e, ids):
        w = weight(e, "w", 8, 8)
        x = e.op(ops.embedding, ids, weight(e, "table", 50, 8))
        y = e.op(ops.sum_, e.op(ops.mul, e.op(ops.reshape, x, shape=(1, 8)), w), dims=(2,), keepdim=False)
        return e.op(ops.add, y, e.op(ops.linear, e.op(ops.sin, x), w))

    agree(program(build))


def attending(e, x, score=None):
    from llmc.ir.score import CAUSAL, SCORE

    heads = e.op(ops.reshape, x, shape=(1, len(EDGES)))
    out = e.op(ops.attention, heads, heads, heads, scale=0.01, score=score or SCORE, admits=CAUSAL)
    return e.op(ops.reshape, out, shape=(len(EDGES),))


def test_attention_does_not_forget_a_block_of_keys_that_are_no_numbers():
    table = torch.randn(50, len(EDGES))
    table[7] = NAN
    made = program(lambda e, ids: attending(e, e.op(ops.embedding, ids, e.weight(Stored(table), "table"))))
    ids = [7] * 32 + [1, 2, 3]
    for backend in (EagerBackend(), CpuBackend()):
        (values,) = step(backend.lower(made), ids).values()
        assert np.isnan(values).any(1).all(), backend.name


def test_products_of_positions_do_not_overflow():
    from llmc.backends.cpu.score import functor
    from llmc.ir.score import CAUSAL, SCORE, K, Q, apply, const

    distance = apply("sub", K, Q)
    bias = apply("mul", apply("mul", distance, distance), const(-1e-9))
    text = functor("F", apply("add", SCORE, bias), CAUSAL)
    assert "int64_t q, int64_t k" in text
