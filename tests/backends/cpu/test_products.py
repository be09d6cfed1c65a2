"""Products in every format of weights and activations, on every instruction set that this processor has."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.backends.cpu import pack
from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.targets import TARGETS, best
from llmc.backends.eager.backend import EagerBackend
from llmc.conformance.formats import stored
from llmc.conformance.forms import relative_error
from llmc.errors import UnsupportedError
from llmc.ir import ops
from llmc.ir.formats import Integer, pack_nibbles, unpack_nibbles
from llmc.ir.weights import Encoded, Stored
from llmc.passes.quantization.rounding import round_rows
from tests.backends.cpu.programs import program, step, weight

HERE = [target for target in TARGETS.values() if not target.lacking]
USUAL = {best().name, "avx2", "portable"}
"""Compiled in every run; others, which share most of their code with these, in slow ones."""
PAIRS = {
    "f32": ("float32",),
    "bf16": ("float32", "bfloat16"),
    "int8": ("float32", "int8"),
    "int4g32": ("float32", "int8"),
    "int4g64z": ("float32", "int8"),
    "int4g128": ("int8",),
}
SHAPES = {
    "f32": (21, 45),
    "bf16": (35, 299),
    "int8": (70, 131),
    "int4g32": (70, 131),
    "int4g64z": (35, 70),
    "int4g128": (21, 45),
}
"""Outputs that fill no panel, inputs that fill no vector, no pair, no group."""
ROWS = 61
TOLERANCE = {"float32": 2e-6, "bfloat16": 3e-3, "int8": 1e-3}
"""Of the largest: a rounded activation may fall to the other side of the middle between two steps, as sums before it differ."""


def products(e, ids):
    """All pairs, each of a table's rows as they are."""
    results = []
    for form, kinds in PAIRS.items():
        n, k = SHAPES[form]
        x = e.op(ops.embedding, ids, weight(e, f"table_{form}", ROWS, k))
        w, bias = e.weight(stored(form, n, k), f"w_{form}"), weight(e, f"bias_{form}", n)
        results += [e.op(ops.linear, x, w, bias, activations=kind) for kind in kinds]
    return tuple(results)


NAMES = [f"{form}-{kind}" for form, kinds in PAIRS.items() for kind in kinds]


@pytest.fixture(scope="module")
def made():
    return program(products, names=NAMES)


def chosen(target):
    return pytest.param(target, id=target.name, marks=[] if target.name in USUAL else pytest.mark.slow)


@pytest.fixture(scope="module", params=map(chosen, HERE))
def executable(request, made):
    return CpuBackend(request.param).lower(made)


def test_product_is_that_of_the_reference(made, executable):
    ids = list(range(50))
    want, got = step(EagerBackend().lower(made), ids), step(executable, ids)
    for name in NAMES:
        assert relative_error(got[name], want[name]) <= TOLERANCE[name.partition("-")[2]], name


def test_one_row_and_many_give_the_same_bits_for_any_number_of_threads(executable):
    ids = [(7 * i) % ROWS for i in range(103)]
    many = step(executable, ids)
    for count, threads in ((1, 1), (2, 2), (3, 1), (5, 2), (7, 2), (8, 1), (12, 2), (13, 1), (31, 2), (103, 1), (103, 3)):
        few = step(executable, ids[:count], threads=threads)
        for name in NAMES:
            assert np.array_equal(few[name], many[name][:count]), (name, count, threads)


SMALLEST = [0.0, 1e-45, 1e-42, 1.1e-38, 1.2e-38, 3e-37, 3.73e-37, 3.74e-37, 4e-37, 1e-35, 1.0]
"""Largest magnitudes of rows: below 127 / (the largest float32) there is no inverse to multiply with."""


def smallest(e, ids):
    """Rows as they are after they were rounded, and a product of them."""
    rows = torch.tensor(SMALLEST)[:, None] * torch.linspace(-1, 1, 45)
    x = e.op(ops.embedding, ids, e.weight(Stored(rows), "rows"))
    w = e.weight(Encoded(Stored(torch.eye(45)), Integer(8), round_rows), "w")
    return e.op(ops.round_rows, x, to="int8"), e.op(ops.linear, x, w, activations="int8")


def smallest_agree(lowered):
    ids = list(range(len(SMALLEST)))
    made = program(smallest, names=("rows", "product"))
    want, got = step(EagerBackend().lower(made), ids), step(lowered(made), ids)
    a_step = np.float32(SMALLEST)[:, None] / 127 * 1.001  # to which a number in the middle may fall either way
    for name in ("rows", "product"):
        assert not got[name][:6].any() and not want[name][:6].any()
        assert (np.abs(got[name] - want[name]) <= a_step).all() and got[name][8:].any(1).all()


@pytest.mark.parametrize("target", list(map(chosen, HERE)))
def test_rows_of_the_smallest_numbers_become_zeros_as_in_the_reference(target):
    smallest_agree(CpuBackend(target).lower)


def test_rows_too_wide_to_be_unpacked_at_once_give_the_same():
    def wide(e, ids):
        x = e.op(ops.embedding, ids, weight(e, "table", 20, 8230))
        return e.op(ops.linear, x, e.weight(stored("int4g32", 35, 8230), "w"), activations="int8")

    made = program(wide)
    want = step(EagerBackend().lower(made), range(20))["logits"]
    for target in (target for target in HERE if target.name in USUAL):
        executable = CpuBackend(target).lower(made)
        many = step(executable, range(20))["logits"]
        assert relative_error(many, want) <= TOLERANCE["int8"], target.name
        for count in (1, 6, 9):
            assert np.array_equal(step(executable, range(count))["logits"], many[:count]), (target.name, count)


def test_sums_that_may_leave_32_bits_are_refused():
    def wide(e, ids):
        x = e.op(ops.embedding, ids, weight(e, "table", 2, 66000))
        return e.op(ops.linear, x, e.weight(stored("int8", 1, 66000), "w"), activations="int8")

    with pytest.raises(UnsupportedError, match="need more than 32 bits; quantize this weight to 4 bits"):
        CpuBackend().lower(program(wide))


def wide_sums():
    """Results, and a program for them, of bytes at the ends of their range, which saturate where pairs of products are added in
    16 bits."""
    codes = torch.full((17, 96), -128, dtype=torch.int8)
    codes[::2] = 127

    def build(e, ids):
        def encode(rows):
            return {"values": rows.to(torch.int8), "scale": torch.ones(len(rows))}

        w = Encoded(Stored(codes.float()), Integer(8), encode)
        x = e.op(ops.embedding, ids, e.weight(Stored(torch.tensor([[127.0], [-127.0]]).repeat(25, 96)), "table"))
        return e.op(ops.linear, x, e.weight(w, "w"), activations="int8")

    want = codes.float() @ torch.tensor([127.0, -127.0]).repeat(96, 1)
    return want.T.numpy(), program(build)


def test_wide_sums_of_whole_numbers_are_exact():
    want, made = wide_sums()
    for target in HERE:
        assert np.array_equal(step(CpuBackend(target).lower(made), [0, 1])["logits"], want), target.name


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.randoms(use_true_random=False))
def test_words_of_nibbles_hold_code_j_and_its_fourth_follower(rows, words, random):
    codes = torch.tensor([[random.randrange(16) for _ in range(8 * words)] for _ in range(rows)], dtype=torch.uint8)
    made = unpack_nibbles(pack.nibble_words(pack_nibbles(codes))).view(rows, words, 8)
    assert torch.equal(made[..., [0, 2, 4, 6, 1, 3, 5, 7]], codes.view(rows, words, 8))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.sampled_from([1, 2, 4]), st.integers(1, 5))
def test_panels_hold_words_of_sixteen_rows_side_by_side(rows, word, words):
    matrix = torch.arange(rows * word * words).view(rows, word * words)
    made = pack.panels(pack.filled(matrix, word * words), word)
    for row in (0, rows // 2, rows - 1):
        assert torch.equal(made[row // 16, :, row % 16].reshape(-1), matrix[row])


@pytest.mark.parametrize("form", [*PAIRS, "int4g32z", "f16"])
def test_packing_by_blocks_of_rows_is_packing_at_once(form, monkeypatch):
    def build(e, ids):
        w = e.weight(stored(form, 100, 70), "w")
        return e.op(ops.linear, e.op(ops.embedding, ids, w), w), e.op(ops.embedding, ids, weight(e, "plain", 50, 3))

    made = program(build, names=("a", "b"))
    packs = []
    for size in (1, pack.BLOCK_BYTES):
        monkeypatch.setattr(pack, "BLOCK_BYTES", size)
        packer = pack.Packer(made)
        for name in made.weights:
            packer.pack(name, packer.table_layout([name]))
        packs.append(packer.fill())
    assert np.array_equal(*packs) and packs[0].ctypes.data % 64 == 0 and packs[0].any()


@pytest.mark.parametrize(("form", "bits"), [("f32", 32), ("bf16", 16), ("int8", 8)])
def test_table_that_nothing_multiplies_stays_as_it_is_stored(form, bits):
    made = program(lambda e, ids: e.op(ops.embedding, ids, e.weight(stored(form, 160, 64), "table")))
    executable = CpuBackend().lower(made)
    assert executable.weights.nbytes <= 160 * 64 * bits // 8 + 160 * 4
    want, got = (step(each, [0, 15, 16, 159])["logits"] for each in (EagerBackend().lower(made), executable))
    assert np.array_equal(got, want)
