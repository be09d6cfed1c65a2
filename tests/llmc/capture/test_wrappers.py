"""Modules of one's own around a model of the library: caches, and masks of padding that have to be all ones."""

import copy

import pytest
import torch
from torch import nn

from llmc.capture import adapter
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


def error_of(module, kind, example=IDS):
    """The largest difference between module and program, of a sequence twice as long as the example."""
    captured = capture(module, (example,), kind=kind)
    ids = torch.cat([example, example.flip(1)], 1)
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


def test_model_is_left_as_it_was_found_where_it_cannot_be_adapted(monkeypatch):
    module = library_model("rope")

    def refuse(name):
        if name == adapter.NAME:
            raise ValueError("this model has no other experts")

    monkeypatch.setattr(module, "set_experts_implementation", refuse)
    with pytest.raises(ValueError, match="no other experts"), adapter.adapted(module):
        raise AssertionError("it was adapted")
    assert not any(m._forward_pre_hooks for m in module.modules())
    assert module.config._attn_implementation != adapter.NAME and adapter._calls.get(None) is None


class ByPlace(Around):
    """Calls the model with arguments by their places: ids, mask, positions, cache, embeddings, and whether to use the cache."""

    def forward(self, ids):
        return self.model(ids, None, None, None, None, *self.given["rest"])[0]


@pytest.mark.parametrize("rest", [(), (None,), (None, True), (None, False)], ids=str)
def test_cache_may_be_left_out_by_its_place(rest):
    assert error_of(ByPlace(library_model("rope"), rest=rest), "causal") < 1e-4


def test_context_is_that_of_the_model_within():
    model = library_model("rope")
    model.config.max_position_embeddings = 512
    assert capture(Around(model), (IDS,)).max_context == 512
    assert capture(Around(model), (IDS,), max_context=64).max_context == 64


@pytest.mark.parametrize(("family", "context"), [("bert", 64), ("roberta", 64)])
def test_encoder_is_given_types_of_zeros_where_it_is_given_none(family, context):
    model, example = made(family), IDS + 2
    assert error_of(Around(model), "encoder", example) < 1e-4
    assert capture(Around(model), (example,), kind="encoder").max_context == context


def test_example_with_an_id_that_pads_is_refused_where_that_matters():
    assert capture(Around(made("bert")), (IDS,), kind="encoder").padding is None
    with pytest.raises(CaptureError, match="the example ids hold 1, which pads"):
        capture(Around(made("roberta")), (IDS,), kind="encoder")
