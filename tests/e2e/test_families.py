"""Models of many families, by capture alone: the numbers of the original in every form of a step."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.eager.backend import EagerBackend
from llmc.capture.capture import capture
from llmc.conformance.forms import CLOSE, chunked, prefill, ragged, relative_error
from llmc.pipeline.recipe import resolve
from llmc.plugins.registry import default
from tests.e2e.families import FAMILIES, HEAD, VOCAB, built, row

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
LENGTHS = (41, 5, 1, 20)
CONTEXTS = {"Llama, rope of type dynamic": 200}
"""Sequences longer than the config states, where the library has rotary positions for them."""

_made: dict = {}


def made(name):
    """Module and what was captured of it."""
    if name not in _made:
        module = built(name)
        _made[name] = module, capture(module, max_context=CONTEXTS.get(name))
    return _made[name]


def exact(name, ids):
    """fp64 logits of the original, `[len, V]`, as the beginning of a sequence as long as can be where its length matters."""
    module, captured = made(name)
    filler = [0] * (captured.max_context - len(ids)) if captured.notes else []
    with torch.no_grad():
        return copy.deepcopy(module).double()(torch.tensor([[*ids, *filler]])).logits[0, : len(ids)].numpy()


def agrees_in_every_form(name, backend):
    program = resolve("none").run(made(name)[1].program, default()).program
    executable = backend.lower(program)
    generator = np.random.default_rng(0)
    prompts = [generator.integers(0, VOCAB, n).tolist() for n in LENGTHS]
    expected = [exact(name, ids) for ids in prompts]
    assert relative_error(prefill(executable.context(16), prompts[0]), expected[0]) <= CLOSE
    assert relative_error(chunked(executable.context(16), prompts[0], 1), expected[0]) <= CLOSE
    assert relative_error(chunked(executable.context(16), prompts[0], 13), expected[0]) <= CLOSE
    for values, reference in zip(ragged(executable.context(16), prompts), expected, strict=True):
        assert relative_error(values, reference) <= CLOSE


def test_page_of_models_has_a_line_for_each_and_no_other():
    text = PAGE.read_text()
    assert text.startswith(HEAD)
    assert [line.split(" | ")[0].removeprefix("| ") for line in text.removeprefix(HEAD).splitlines()] == list(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_the_original_in_every_form(name):
    assert row(name, made(name)[1].program) in PAGE.read_text()
    agrees_in_every_form(name, EagerBackend())


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_generated_code_gives_them_too(name):
    agrees_in_every_form(name, CpuBackend())
