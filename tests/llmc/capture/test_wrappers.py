"""Modules of one's own around a model of the library: caches, and masks of padding that have to be all ones."""

import copy

import pytest
import torch
from torch import nn

from llmc.capture.capture import capture
from llmc.conformance.modules import library_model
from llmc.errors import CaptureError
from llmc.ir.module import run
from tests.e2e.encoders import made

IDS = torch.tensor([[5, 1, 9, 3, 3, 0, 7, 2]])

MASKS = {
    "ones": torch.ones_like,
    "comparison": lambda ids: (torch.zeros_like(ids) + 2 > 1).long(),
    "ids": lambda ids: (ids != 3).long(),
    "zeros": torch.zeros_like,
    "some": lambda ids: (torch.arange(ids.shape[1])[None] > 2).long(),
}


class Around(nn.Module):
    """A model of the library called with a mask; the first of what it returns."""

    def __init__(self, model, mask=None, **given):
        super().__init__()
        self.model, self.mask, self.given = model, mask, given

    def forward(self, ids):
        given = dict(self.given) if self.mask is None else {**self.given, "attention_mask": MASKS[self.mask](ids)}
        return self.model(ids, **given)[0]


def error_of(module, kind):
    """The largest difference between module and program, of a sequence twice as long as the example."""
    captured = capture(module, (IDS,), kind=kind)
    ids = torch.cat([IDS, IDS.flip(1)], 1)
    with torch.no_grad():
        expected = copy.deepcopy(module)(ids)[0]
    weights = captured.program.weights
    found = run(captured.program, lambda name: weights[name].evaluate(), ids[0])[captured.program.outputs[0]]
    return float((found - expected).abs().max())


@pytest.mark.parametrize(("mask", "given"), [(None, {}), ("ones", {}), ("comparison", {"use_cache": False})])
def test_causal_model_may_be_given_a_mask_of_ones(mask, given):
    assert error_of(Around(library_model("rope"), mask, **given), "causal") < 1e-4


@pytest.mark.parametrize("mask", [None, "comparison"])
def test_encoder_may_be_given_a_mask_of_ones(mask):
    assert error_of(Around(made("distilbert"), mask), "encoder") < 1e-4


@pytest.mark.parametrize(("mask", "kind"), [("ids", "causal"), ("some", "causal"), ("zeros", "encoder")])
def test_mask_that_is_not_provably_ones_is_refused(mask, kind):
    model = library_model("rope") if kind == "causal" else made("distilbert")
    with pytest.raises(CaptureError, match="mask is not proved to be all ones"):
        capture(Around(model, mask), (IDS,), kind=kind)


def test_cache_that_is_lent_is_taken_back():
    module = Around(library_model("rope"))
    capture(module, (IDS,))
    assert not any(m._forward_pre_hooks for m in module.modules())
