"""Rotary positions that depend on the length of a sequence are those of the longest one, and that is told."""

import copy

import pytest
import torch

import llmc
from llmc.capture.capture import capture
from llmc.errors import CaptureError
from tests.e2e.families import built

LONG, DYNAMIC = "Phi-3, rope of type longrope", "Llama, rope of type dynamic"
SHORT = 40
"""Up to here a sequence has the other frequencies."""


def difference(module, program, count, total):
    """Of logits of `count` ids from those that the module gives them at the beginning of a sequence of `total`."""
    ids = torch.arange(total) % 7
    with torch.no_grad():
        expected = copy.deepcopy(module).double()(ids[None]).logits[0, :count]
        found = program.as_module()(ids[:count])["logits"]
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("total", [SHORT, SHORT + 1, 128])
def test_frequencies_are_those_of_the_longest_sequence(total):
    module = built(LONG)
    captured = capture(module, max_context=total)
    assert difference(module, captured.program, 9, total) < 1e-6
    assert (difference(module, captured.program, 9, 9) < 1e-6) == (total == SHORT)


def test_decision_is_told_and_kept_in_what_is_saved(tmp_path):
    model = llmc.compile(built(LONG), backend="eager")
    (note,) = model.info.notes
    assert "'longrope'" in note and "128 positions" in note and note in model.explain()
    model.save(tmp_path / "m")
    assert note in llmc.load(tmp_path / "m").explain()


def test_context_is_longer_than_stated_only_where_it_is_asked_for():
    module = built(DYNAMIC)
    assert capture(module).max_context == 128
    longer = capture(module, max_context=300)
    assert longer.max_context == 300 and "300 positions" in longer.notes[0]
    assert difference(module, longer.program, 9, 300) < 1e-6
    with pytest.raises(CaptureError, match="beyond the 128"):
        capture(built(LONG), max_context=129)


@pytest.mark.parametrize("name", [LONG, DYNAMIC])
def test_module_is_left_as_it_was_found(name):
    module = built(name)
    rotary = module.model.rotary_emb
    before = (rotary.rope_type, rotary.inv_freq, rotary.inv_freq.clone(), rotary.attention_scaling)
    capture(module, max_context=100)
    assert rotary.rope_type == before[0] and rotary.inv_freq is before[1] and torch.equal(rotary.inv_freq, before[2])
    assert rotary.attention_scaling == before[3]
