"""Compiled models through a backend: saved and loaded, and what they write."""

import numpy as np
import pytest

import llmc
from llmc.conformance import models
from llmc.conformance.forms import CACHE_BLOCKS, prefill, same_rows
from llmc.conformance.programs import some_ids
from llmc.conformance.subject import subject as subject_of

TIE = 1e-4
"""Two logits as near as this may change places by rounding."""


@pytest.mark.parametrize("recipe", ["fuse", "int8"])
def test_model_that_was_saved_and_loaded_gives_what_it_gave(subject, recipe, tmp_path):
    model = llmc.compile(models.original("library-rope"), recipe=recipe, backend=subject.name)
    model.save(tmp_path / "model")
    loaded = llmc.load(tmp_path / "model")
    prompts = [some_ids(n, model.info.vocab_size, seed=n) for n in (9, 1, 40)]
    for found, expected in zip(loaded(prompts), model(prompts), strict=True):
        assert np.array_equal(found, expected)
    assert loaded.info.backend == subject.name
    sources = model.executable.sources()
    assert sources and all(isinstance(text, str) and text for text in sources.values())
    for name, text in sources.items():
        assert (tmp_path / "model" / "executable" / name).read_text() == text


@pytest.mark.skipif("bundled" not in models.MODELS, reason="the trained model is not here")
def test_greedy_text_is_that_of_the_reference_up_to_a_tie(subject):
    model = llmc.compile(models.BUNDLED, backend=subject.name)
    prompts = [[1, 17, 300], some_ids(20, model.info.vocab_size), [5]]
    eager = subject_of("eager").lower(("model", "bundled", "fuse"), lambda: models.program("bundled", "fuse"))
    for prompt, result in zip(prompts, model.generate(prompts, max_new_tokens=24), strict=True):
        assert len(result.tokens) > 0
        logits = prefill(eager.context(CACHE_BLOCKS), [*prompt, *result.tokens])[len(prompt) - 1 : -1]
        best = logits.argmax(-1)
        differing = np.flatnonzero(best != result.tokens)
        if len(differing):  # from here on the texts may go different ways
            row = logits[differing[0]]
            assert row.max() - row[result.tokens[differing[0]]] < TIE


def test_generation_of_a_batch_is_that_of_each_prompt(subject):
    model = llmc.compile(models.original("library-rope"), backend=subject.name)
    if not model.executable.row_exact:
        pytest.skip("promised where rows are the same bits in any company")
    prompts = [some_ids(n, model.info.vocab_size, seed=n) for n in (9, 1, 33)]
    together = model.generate(prompts, max_new_tokens=12)
    assert [r.tokens for r in together] == [model.generate(p, max_new_tokens=12).tokens for p in prompts]
    assert same_rows(model.executable, model([prompts[0]])[0], model(prompts)[0])
