"""Trained models: numbers, text and quality against the original."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

import llmc
from llmc.conformance.forms import chunked, prefill, ragged, relative_error
from llmc.evaluate.divergence import divergence

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "examples" / "tiny_lm" / "model"
STORIES = ROOT.parent / "shared" / "data" / "models" / "stories260K-hf"
MODELS = {
    "bundled": pytest.param(BUNDLED, id="bundled"),
    "stories": pytest.param(STORIES, id="stories", marks=pytest.mark.skipif(not STORIES.is_dir(), reason="is not here")),
}
TIE = 1e-4
"""Two logits as near as this may change places by rounding."""

_made: dict = {}


def compiled(folder, recipe="fuse", backend="cpu"):
    key = (folder, str(recipe), backend)
    if key not in _made:
        _made[key] = llmc.compile(folder, recipe=recipe, backend=backend)
    return _made[key]


def original(folder, dtype=torch.float64):
    from transformers import AutoModelForCausalLM

    key = (folder, dtype)
    if key not in _made:
        _made[key] = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    return _made[key]


def exact(folder, ids):
    """fp64 logits of the original, `[len, V]`."""
    with torch.no_grad():
        return original(folder)(torch.tensor(ids)[None]).logits[0].numpy()


def text_ids(count, start=0):
    return compiled(BUNDLED).tokenizer.encode((BUNDLED / "heldout.txt").read_text())[start : start + count]


def some_ids(folder, count, seed=0):
    """Of the bundled model real text, of another what it is likely to write: random ids are nothing it was trained on."""
    if folder == BUNDLED:
        return text_ids(count, 997 * seed)
    return compiled(folder).generate([1 + seed], max_new_tokens=count, temperature=1.0, seed=seed).tokens


@pytest.mark.parametrize("backend", ["cpu", "eager"])
@pytest.mark.parametrize("recipe", [pytest.param([], id="raw", marks=pytest.mark.slow), "fuse"])
@pytest.mark.parametrize("folder", MODELS.values())
def test_logits_are_those_of_the_original_in_every_form(folder, recipe, backend):
    executable = compiled(folder, recipe, backend).executable
    ids = some_ids(folder, 150)
    expected = exact(folder, ids)
    assert relative_error(prefill(executable.context(64), ids), expected) <= 1e-5
    assert relative_error(chunked(executable.context(64), ids, 1), expected) <= 1e-5
    assert relative_error(chunked(executable.context(64), ids, 37), expected) <= 1e-5
    prompts = [some_ids(folder, n, seed) for seed, n in enumerate((64, 5, 1, 33))]
    for values, prompt in zip(ragged(executable.context(64), prompts), prompts, strict=True):
        assert relative_error(values, exact(folder, prompt)) <= 1e-5


@pytest.mark.parametrize("recipe", ["fuse", "int8"])
def test_rows_are_the_same_bits_alone_in_a_batch_in_chunks_and_with_any_threads(recipe):
    executable = compiled(BUNDLED, recipe).executable
    prompts = [text_ids(n, 500 * n) for n in (90, 7, 33, 1)]
    alone = [prefill(executable.context(64, threads=1), prompt) for prompt in prompts]
    for threads in (1, 2, 3):
        for values, expected in zip(ragged(executable.context(64, threads=threads), prompts), alone, strict=True):
            assert np.array_equal(values, expected)
        assert np.array_equal(chunked(executable.context(64, threads=threads), prompts[0], 13), alone[0])


def test_most_likely_tokens_are_those_of_the_original_over_two_thousand_tokens():
    ids = text_ids(2048)
    windows = [ids[start : start + 512] for start in range(0, 2048, 512)]
    compared = 0
    for window, found in zip(windows, compiled(BUNDLED)(windows), strict=True):
        expected = exact(BUNDLED, window)
        top = np.sort(expected, -1)
        clear = top[:, -1] - top[:, -2] >= TIE
        compared += int(clear.sum())
        assert np.array_equal(found.argmax(-1)[clear], expected.argmax(-1)[clear])
    assert compared >= 2000


@pytest.mark.parametrize("folder", MODELS.values())
@pytest.mark.parametrize("seed", range(3))
def test_generated_text_is_that_of_the_original_up_to_a_tie(folder, seed):
    prompt = some_ids(folder, 20, seed)
    result = compiled(folder).generate([prompt], max_new_tokens=150)[0]
    logits = exact(folder, [*prompt, *result.tokens])[len(prompt) - 1 : -1]  # of each step, given the tokens before it
    best = logits.argmax(-1)
    differing = np.flatnonzero(best != result.tokens)
    if len(differing):  # from here on the texts may go different ways
        row = logits[differing[0]]
        assert row.max() - row[result.tokens[differing[0]]] < TIE


QUALITY = {"bf16": (1.001, 1.01), "int8": (1.005, 0.6), "int4": (1.06, 0.4)}
"""By recipe: perplexity and weights, each at most so much of the original's, stored in bfloat16."""


@pytest.mark.parametrize("tokens", [10_000, pytest.param(None, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
@pytest.mark.parametrize("recipe", QUALITY)
def test_shorter_weights_cost_little_perplexity(recipe, tokens):
    ids = text_ids(tokens or 10**9)
    model = compiled(BUNDLED, recipe)
    found = divergence(model, original(BUNDLED, torch.float32), ids, 512, dtype="float32")
    assert found.positions == len(ids)
    perplexity, size = QUALITY[recipe]
    assert found.compiled.perplexity <= perplexity * found.original.perplexity
    assert model.program.weight_bytes() < size * compiled(BUNDLED).program.weight_bytes()
    assert recipe != "int4" or {str(weight.format) for weight in model.program.weights.values()} == {"f32", "bf16", "int4g32"}


def test_compiling_changes_nothing_of_a_module_that_is_given():
    module = copy.deepcopy(original(BUNDLED, torch.float32)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model = llmc.compile(module, recipe="int8", backend="cpu")
    assert module.training and all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert relative_error(model([[5, 6, 7]])[0], exact(BUNDLED, [5, 6, 7])) < 0.05
