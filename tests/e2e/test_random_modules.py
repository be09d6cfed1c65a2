"""Property: whatever a module is made of, original, eager and cpu agree; whatever mixes positions is refused by name."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.eager.backend import EagerBackend
from llmc.capture.capture import capture
from llmc.conformance.forms import chunked, prefill, ragged, relative_error
from llmc.errors import CaptureError
from llmc.pipeline.recipe import resolve
from llmc.plugins.registry import default
from tests.e2e.random_modules import MUTATIONS, VOCAB, MutantModel, RandomModel, few_shapes, plans

IDS = (torch.tensor([[3, 1, 4, 1, 5, 9, 2]]),)
COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def agree(plan) -> None:
    """Original in fp64 against both backends: prefill, token by token, ragged; cpu bit for bit with itself."""
    module = RandomModel(plan).eval()
    captured = capture(module, IDS)
    recipe = [] if plan.seed % 3 == 0 else "fuse"  # a third with no pattern but attention raised
    program = resolve(recipe).run(captured.program, default()).program
    exact = copy.deepcopy(module).double()
    generator = np.random.default_rng(plan.seed)
    prompts = [generator.integers(0, VOCAB, n).tolist() for n in (23, 9, 1, 30)]
    with torch.no_grad():
        expected = [exact(torch.tensor(ids)[None])[0].numpy() for ids in prompts]
    for backend in (EagerBackend(), CpuBackend()):
        executable = backend.lower(program)
        whole = prefill(executable.context(64, threads=2), prompts[0])
        assert relative_error(whole, expected[0]) <= 1e-5, backend.name
        assert np.array_equal(whole, chunked(executable.context(64, threads=1), prompts[0], 1)), backend.name
        for values, reference in zip(ragged(executable.context(64, threads=2), prompts), expected, strict=True):
            assert relative_error(values, reference) <= 1e-5, backend.name


def agree_on(count: int, part: int, plans=plans) -> None:
    """So many modules; each part has others."""

    @seed(part)
    @settings(max_examples=count, **COMMON)
    @given(plans)
    def check(plan):
        agree(plan)

    check()


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 4))])
def test_random_modules_agree(part):
    agree_on(4, part, few_shapes)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(10, 20))
def test_three_hundred_random_modules_agree(part):
    agree_on(30, part)


@settings(max_examples=16, derandomize=True, **COMMON)
@given(plans, st.sampled_from(MUTATIONS), st.integers(0, 2))
def test_mutants_are_refused_with_the_node_named(plan, mutation, place):
    with pytest.raises(CaptureError, match=r"node '\w+'\).*\n  at random_modules\.py:\d+"):
        capture(MutantModel(plan, mutation, place), IDS)
