"""Whole models against the original in float64, in every form of a step; and against themselves."""

import numpy as np
import pytest

from llmc.conformance import models
from llmc.conformance.forms import CACHE_BLOCKS, CLOSE, chunked, prefill, ragged, relative_error, same_rows
from llmc.conformance.programs import some_ids
from llmc.conformance.subject import subject as subject_of

MOST = {"bf16": 0.05, "int8": 0.05, "int4": 0.3}
"""What a recipe may change of the logits."""


def tried(pairs):
    """Recipes and models as parameters."""
    return [pytest.param(*pair, marks=[pytest.mark.slow] if pair in models.AGAIN else []) for pair in pairs]


FLOATS = [(recipe, name) for name in models.MODELS for recipe in ("raw", "fuse")]


def lowered(subject, name, recipe):
    return subject.lower(("model", name, recipe), lambda: models.program(name, recipe))


@pytest.mark.parametrize(("recipe", "name"), tried(FLOATS))
def test_float32_agrees_with_the_original_in_every_form(subject, name, recipe):
    executable, vocab = lowered(subject, name, recipe), models.captured(name).vocab_size
    ids = some_ids(45, vocab)
    expected = models.exact(name, ids)
    assert relative_error(prefill(executable.context(CACHE_BLOCKS), ids), expected) <= CLOSE
    assert relative_error(chunked(executable.context(CACHE_BLOCKS), ids, 1), expected) <= CLOSE
    assert relative_error(chunked(executable.context(CACHE_BLOCKS), ids, 13), expected) <= CLOSE
    prompts = [some_ids(n, vocab, seed=n) for n in (5, 33, 1, 40)]
    for values, prompt in zip(ragged(executable.context(CACHE_BLOCKS), prompts), prompts, strict=True):
        assert relative_error(values, models.exact(name, prompt)) <= CLOSE


@pytest.mark.parametrize(("recipe", "name"), tried([*(("fuse", name) for name in models.MODELS), *models.ROUNDING]))
def test_rows_are_the_same_in_every_form_and_with_one_thread_or_two(subject, name, recipe):
    """Bit for bit where the backend is `row_exact`; where it is not, as near as they are to the original, about."""
    executable, vocab = lowered(subject, name, recipe), models.captured(name).vocab_size
    ids = some_ids(45, vocab, seed=1)
    whole = prefill(executable.context(CACHE_BLOCKS, threads=2), ids)
    tolerance = CLOSE if recipe == "fuse" else relative_error(whole, models.exact(name, ids))
    assert same_rows(executable, prefill(executable.context(CACHE_BLOCKS, threads=1), ids), whole, tolerance)
    for size in (1, 5, 32) if executable.row_exact else (5,):
        rows = chunked(executable.context(CACHE_BLOCKS, threads=2), ids, size)
        assert same_rows(executable, rows, whole, tolerance), f"chunks of {size}"
    lengths = (5, 33, 1, 40) if executable.row_exact else (33,)  # a backend that is not may compile for each
    prompts = [ids, *(some_ids(n, vocab, seed=n) for n in lengths)]
    for values, prompt in zip(ragged(executable.context(CACHE_BLOCKS, threads=2), prompts), prompts, strict=True):
        alone = prefill(executable.context(CACHE_BLOCKS, threads=1), prompt)
        assert same_rows(executable, values, alone, tolerance)


@pytest.mark.parametrize(("recipe", "name"), tried(models.ROUNDING))
def test_rounding_is_as_near_to_that_of_the_reference_as_it_allows(subject, recipe, name):
    """What lies between two numbers that can be stored may fall to the other side, and what follows from it is as large as what
    rounding changes in the first place; a single `linear` is held to much less (test_formats.py)."""
    ids = some_ids(45, models.captured(name).vocab_size)
    found = prefill(lowered(subject, name, recipe).context(CACHE_BLOCKS), ids)
    expected = prefill(lowered(subject_of("eager"), name, recipe).context(CACHE_BLOCKS), ids)
    rounding = relative_error(expected, models.exact(name, ids))
    assert 1e-4 < rounding < MOST[recipe]
    assert relative_error(found, expected) <= rounding
    assert np.isfinite(found).all()
