"""Both backends against the original in fp64, in every form of a step; and bit for bit against themselves."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.eager.backend import EagerBackend
from llmc.capture.capture import capture
from llmc.pipeline.recipe import resolve
from llmc.plugins.registry import default
from tests.backends.forms import Runner, chunked, prefill, ragged, relative_error
from tests.llmc.models import LearnedPositions, TrilAttention, library_model

BACKENDS = {"eager": EagerBackend, "cpu": CpuBackend}
MODELS = ("library-rope", "library-learned", "learned", "tril")
RAW = []
"""A recipe without passes: no pattern but attention is raised."""

_made: dict = {}


def original(name):
    torch.manual_seed(3)
    makers = {"learned": LearnedPositions, "tril": TrilAttention}
    return makers[name]() if name in makers else library_model(name.removeprefix("library-"), seed=3)


def compiled(name, recipe, backend):
    """Executable, vocabulary and a function to fp64 logits; made once."""
    key = (name, str(recipe), backend)
    if key not in _made:
        module = original(name)
        captured = capture(module, None if "library" in name else (torch.arange(6)[None],))
        program = resolve(recipe).run(captured.program, default()).program
        _made[key] = BACKENDS[backend]().lower(program), captured.vocab_size, module
    return _made[key]


def reference(module, ids):
    module = copy.deepcopy(module).double().eval()
    with torch.no_grad():
        ids = torch.tensor(ids)[None]
        if isinstance(module, LearnedPositions):
            return module.head(module.hidden(ids))[0].numpy()
        out = module(ids)
        return (out if isinstance(out, torch.Tensor) else out.logits)[0].numpy()


def random_ids(vocab, count, seed=0):
    return np.random.default_rng(seed).integers(0, vocab, count).tolist()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recipe", [RAW, "none"], ids=["raw", "none"])
@pytest.mark.parametrize("name", MODELS)
def test_fp32_agrees_with_the_original_in_every_form(name, recipe, backend):
    executable, vocab, module = compiled(name, recipe, backend)
    ids = random_ids(vocab, 45)
    expected = reference(module, ids)
    assert relative_error(prefill(executable.context(64), ids), expected) <= 1e-5
    assert relative_error(chunked(executable.context(64), ids, 1), expected) <= 1e-5
    assert relative_error(chunked(executable.context(64), ids, 13), expected) <= 1e-5
    prompts = [random_ids(vocab, n, seed=n) for n in (5, 33, 1, 40)]
    for values, prompt in zip(ragged(executable.context(64), prompts), prompts, strict=True):
        assert relative_error(values, reference(module, prompt)) <= 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recipe", ["none", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_rows_are_bitwise_the_same_in_every_form_and_with_one_thread_or_two(name, recipe, backend):
    executable, vocab, _ = compiled(name, recipe, backend)
    ids = random_ids(vocab, 45, seed=1)
    whole = prefill(executable.context(64, threads=2), ids)
    assert np.array_equal(whole, prefill(executable.context(64, threads=1), ids))
    for size in (1, 2, 5, 32):
        assert np.array_equal(whole, chunked(executable.context(64, threads=2), ids, size)), f"chunks of {size}"
    prompts = [ids, *(random_ids(vocab, n, seed=n) for n in (5, 33, 1, 40))]
    mixed = ragged(executable.context(64, threads=2), prompts)
    for values, prompt in zip(mixed, prompts, strict=True):
        assert np.array_equal(values, prefill(executable.context(64, threads=1), prompt))


@pytest.mark.parametrize("name", MODELS)
def test_int8_on_cpu_is_the_int8_of_eager(name):
    """Rounded activations may fall to the other side here and there; the mean difference stays far below the rounding."""
    ids = random_ids(101 if name != "tril" else 67, 45)
    a, b = (prefill(compiled(name, "int8", backend)[0].context(64), ids) for backend in BACKENDS)
    fp32 = prefill(compiled(name, "none", "cpu")[0].context(64), ids)
    rounding = relative_error(a, fp32)
    assert 1e-4 < rounding < 0.05
    assert relative_error(b, a) < rounding


@pytest.mark.parametrize("backend", BACKENDS)
def test_forked_sequence_goes_its_own_way_and_leaves_the_other_alone(backend):
    executable, vocab, _ = compiled("library-rope", "none", backend)
    start, left, right = (random_ids(vocab, n, seed=n) for n in (40, 9, 11))
    runner = Runner(executable.context(64))
    a = runner.sequences.create()
    runner.step([(a, start)])
    b = runner.sequences.fork(a)
    rows = runner.step([(a, left), (b, right)])
    expect_a, expect_b = (prefill(executable.context(64), start + tail)[len(start) :] for tail in (left, right))
    assert np.array_equal(rows[: len(left)], expect_a) and np.array_equal(rows[len(left) :], expect_b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_truncated_sequence_forgets_what_was_cut(backend):
    executable, vocab, _ = compiled("library-rope", "none", backend)
    ids = random_ids(vocab, 50)
    runner = Runner(executable.context(64))
    a = runner.sequences.create()
    runner.step([(a, ids[:37] + random_ids(vocab, 10, seed=9))])
    runner.sequences.truncate(a, 37)
    assert np.array_equal(runner.step([(a, ids[37:])]), prefill(executable.context(64), ids)[37:])


@pytest.mark.parametrize("backend", BACKENDS)
def test_out_rows_come_in_the_order_asked_for_and_may_be_none(backend):
    executable, vocab, _ = compiled("library-rope", "none", backend)
    ids = random_ids(vocab, 12)
    runner = Runner(executable.context(64))
    batch = runner.sequences.batch([(runner.sequences.create(), ids)], ["all"])
    chosen = np.array([7, 2, 7, 11], np.int32)
    whole = prefill(executable.context(64), ids)
    few = executable.context(64).step(dataclasses.replace(batch, out_rows=chosen))
    assert np.array_equal(few["logits"], whole[chosen])
    none = executable.context(64).step(dataclasses.replace(batch, out_rows=chosen[:0]))
    assert none["logits"].shape == (0, vocab)
