"""Code for Arm: refused without a compiler for it, and what it computes, under an emulator."""

import dataclasses
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import llmc
from llmc.backends.cpu import targets
from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.targets import NEON, NEON_I8MM, PORTABLE, TARGETS
from llmc.conformance.forms import chunked, prefill, ragged, relative_error
from llmc.errors import ArtifactError, ToolchainError, UnsupportedError
from llmc.ir import ops
from tests.backends.cpu import test_products
from tests.backends.cpu.emulated import COMPILER, EMULATOR, Emulated, needs_emulator, program_of
from tests.backends.cpu.programs import program, rounded, table

MODEL = Path(__file__).resolve().parents[3] / "examples" / "tiny_lm" / "model"
BASELINE = dataclasses.replace(PORTABLE, name="portable-arm", kind="aarch64")
ARM = {target.name: target for target in (NEON_I8MM, NEON, BASELINE)}
TOLERANCE = {"fuse": 1e-5, "bf16": 0.02, "int8": 0.02, "int4": 0.05}
"""Of logits against those of eager: roundings that fall to the other side are as large as rounding itself."""

IDS = np.random.default_rng(0).integers(0, 500, 70).tolist()


@pytest.fixture
def cross(monkeypatch):
    monkeypatch.setenv("CXX", COMPILER)
    monkeypatch.setitem(TARGETS, BASELINE.name, BASELINE)


@cache
def compiled(recipe, target):
    return llmc.compile(MODEL, recipe=recipe, backend="cpu", target=target)


@cache
def reference(recipe):
    return prefill(llmc.compile(MODEL, recipe=recipe, backend="eager").executable.context(64), IDS)


@pytest.mark.skipif(not NEON.lacking, reason="code for Arm runs here")
def test_code_for_another_kind_of_machine_asks_for_a_compiler_that_makes_it(monkeypatch):
    monkeypatch.setenv("CXX", "g++")
    problem = r"'neon' is for aarch64, and \S*g\+\+ makes code for x86_64.*CXX=aarch64-linux-gnu-g"
    with pytest.raises(ToolchainError, match=problem):
        CpuBackend(NEON).lower(program(lambda e, ids: table(e, ids)))
    with pytest.raises(UnsupportedError, match="'neon' does not run here: it is for aarch64 and this is x86_64; compile for"):
        NEON.check()


@needs_emulator
def test_cross_compiled_code_is_for_its_machine_and_refused_here(cross):
    made = program(lambda e, ids: e.op(ops.linear, table(e, ids), rounded(e, "w", 5, 8), activations="int8"))
    executable = CpuBackend(NEON).lower(made)
    assert executable.machine == "aarch64" and "asimddp" in executable.needs
    with pytest.raises(UnsupportedError, match="it is for aarch64"):
        executable.context(1)
    with pytest.raises(ToolchainError, match=r"'portable' is for x86_64, and .*aarch64-linux-gnu-g.. makes code for aarch64"):
        CpuBackend(PORTABLE).lower(program(lambda e, ids: table(e, ids)))
    assert targets.best().machine == "x86_64"


@needs_emulator
@pytest.mark.slow
@pytest.mark.parametrize("target", ARM)
def test_products_on_arm_are_those_of_the_reference_with_the_same_bits_in_every_form(target, cross):
    made = program(test_products.products, names=test_products.NAMES)
    executable = Emulated(CpuBackend(ARM[target]).lower(made))
    test_products.test_product_is_that_of_the_reference(made, executable)
    test_products.test_one_row_and_many_give_the_same_bits_for_any_number_of_threads(executable)


@needs_emulator
@pytest.mark.slow
@pytest.mark.parametrize("target", ARM)
def test_wide_sums_on_arm_are_exact(target, cross):
    want, made = test_products.wide_sums()
    got = test_products.step(Emulated(CpuBackend(ARM[target]).lower(made)), [0, 1])["logits"]
    assert np.array_equal(got, want)


@needs_emulator
@pytest.mark.slow
@pytest.mark.parametrize("recipe", TOLERANCE)
@pytest.mark.parametrize("target", ARM)
def test_trained_model_on_arm_agrees_with_eager_and_has_the_same_bits_in_every_form(target, recipe, cross):
    executable = Emulated(compiled(recipe, target).executable)
    whole = prefill(executable.context(64, threads=2), IDS)
    assert relative_error(whole, reference(recipe)) <= TOLERANCE[recipe]
    assert np.array_equal(prefill(executable.context(64, threads=1), IDS), whole)
    for size, threads in ((1, 2), (5, 1), (33, 2)):
        assert np.array_equal(chunked(executable.context(64, threads=threads), IDS, size), whole), (size, threads)
    prompts = [IDS, IDS[:5], IDS[:33], IDS[:1]]
    for values, prompt in zip(ragged(executable.context(64, threads=2), prompts), prompts, strict=True):
        assert np.array_equal(values, whole[: len(prompt)]), len(prompt)


@needs_emulator
@pytest.mark.slow
def test_artifact_for_arm_continues_a_text_by_its_own_program_and_is_refused_here(cross, tmp_path):
    model = compiled("fuse", "neon")
    model.save(tmp_path / "m")
    with pytest.raises(ArtifactError, match="it is for aarch64 and this is x86_64"):
        llmc.load(tmp_path / "m")
    folder = tmp_path / "m" / "executable"
    made = program_of(folder, folder / "main.c", "main")
    words = [*EMULATOR, f"./{made.name}", "12", *map(str, IDS[:9])]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    want = llmc.compile(MODEL, recipe="fuse", backend="eager").generate(IDS[:9], max_new_tokens=12)
    assert list(map(int, done.stdout.split()))[: len(want.tokens)] == list(want.tokens)


@needs_emulator
@pytest.mark.slow
@pytest.mark.parametrize("target", ARM.values(), ids=ARM)
def test_rows_of_the_smallest_numbers_become_zeros(target, cross):
    test_products.smallest_agree(lambda made: Emulated(CpuBackend(target).lower(made)))
