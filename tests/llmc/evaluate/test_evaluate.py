"""Perplexity and divergence, against the same numbers computed by torch."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import llmc
from llmc.conformance.modules import library_model
from llmc.errors import InputError
from llmc.evaluate.divergence import divergence
from llmc.evaluate.perplexity import perplexity, split_windows

MODEL = Path(__file__).resolve().parents[3] / "examples" / "tiny_lm" / "model"
COUNT, WINDOW = 700, 200


@pytest.fixture(scope="module")
def model():
    return llmc.compile(MODEL, backend="cpu")


@pytest.fixture(scope="module")
def ids(model):
    return model.tokenizer.encode((MODEL / "heldout.txt").read_text())[:COUNT]


@pytest.fixture(scope="module")
def original():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


def test_perplexity_is_that_of_the_original_over_the_same_windows(model, ids, original):
    nats, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, COUNT, WINDOW):
            window = torch.tensor(ids[start : start + WINDOW])
            nats += F.cross_entropy(original(window[None]).logits[0, :-1], window[1:], reduction="sum").item()
            count += len(window) - 1
    found = perplexity(model, ids, WINDOW)
    assert found.tokens == count == 696
    assert found.nats_per_token == pytest.approx(nats / count, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(nats / count), rel=1e-6)


def test_bits_per_byte_count_the_bytes_of_what_was_predicted(model, ids):
    found = perplexity(model, ids[:WINDOW], WINDOW)
    text = model.tokenizer.decode(ids[:WINDOW])[len(model.tokenizer.decode(ids[:1])) :]
    assert found.bits_per_byte == pytest.approx(found.nats_per_token * found.tokens / math.log(2) / len(text.encode()))


def test_divergence_of_an_exact_copy_is_rounding(model, ids, original):
    found = divergence(model, original, ids, WINDOW)
    assert found.positions == COUNT and found.same_top1 == 1
    assert found.logits_error < 1e-6 and 0 <= found.kl_nats < 1e-9
    assert found.compiled.perplexity == pytest.approx(found.original.perplexity, rel=1e-6)


def test_divergence_of_another_model_is_that_of_the_formula(model, ids, original):
    noisy = library_model("rope", vocab_size=model.info.vocab_size)
    found = divergence(model, noisy, ids[:50], 50)
    with torch.no_grad():
        p = noisy.double()(torch.tensor([ids[:50]])).logits[0].log_softmax(-1)
        q = original.double()(torch.tensor([ids[:50]])).logits[0].log_softmax(-1)
        original.float()
    assert found.kl_nats == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-5)


def test_divergence_from_a_model_of_another_vocabulary_is_refused(model, ids):
    with pytest.raises(InputError, match=r"vocabulary|logits"):
        divergence(model, library_model("rope"), ids[:50], 50)


def test_windows_cover_the_text_and_leave_out_a_single_id():
    assert [len(w) for w in split_windows(range(401), 200, 512)] == [200, 200]
    assert [len(w) for w in split_windows(range(402), 200, 512)] == [200, 200, 2]


@pytest.mark.parametrize(("count", "window"), [(100, 513), (100, 1), (1, 50), (0, 50)])
def test_windows_that_predict_nothing_are_refused(count, window):
    with pytest.raises(InputError):
        split_windows(range(count), window, 512)
