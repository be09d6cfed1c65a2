"""The library's own generation, with the compiled model and with the original: the same ids."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    TextStreamer,
    pipeline,
)

import llmc
from llmc.errors import InputError

MODEL = Path(__file__).parents[3] / "examples/tiny_lm/model"

WAYS = {
    "greedy": dict(do_sample=False),
    "beams": dict(num_beams=3, num_return_sequences=2),
    "penalties": dict(do_sample=False, repetition_penalty=1.3, no_repeat_ngram_size=2),
    "sampled": dict(do_sample=True, top_k=20, temperature=0.8),
    "sampled beams": dict(do_sample=True, num_beams=2),
    "drafts": dict(do_sample=False, prompt_lookup_num_tokens=3),
    "no cache": dict(do_sample=False, use_cache=False),
    "chunked prefill": dict(do_sample=False, prefill_chunk_size=2),
    "config": dict(generation_config=GenerationConfig(max_new_tokens=9, do_sample=False, suppress_tokens=[5, 6, 7])),
    "processors": dict(do_sample=False, logits_processor=LogitsProcessorList([MinLengthLogitsProcessor(30, 2)])),
    "scores": dict(do_sample=False, return_dict_in_generate=True, output_scores=True),
}


@pytest.fixture(scope="module")
def compiled():
    return llmc.compile(MODEL, backend="cpu")


@pytest.fixture(scope="module")
def model(compiled):
    return compiled.for_transformers()


@pytest.fixture(scope="module")
def original():
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


@pytest.fixture
def tokenizer():
    loaded = AutoTokenizer.from_pretrained(MODEL)
    loaded.pad_token, loaded.padding_side = loaded.eos_token, "left"
    return loaded


def generated(model, inputs, **arguments):
    torch.manual_seed(0)
    found = model.generate(**inputs, **{"max_new_tokens": 24, "pad_token_id": 0, **arguments})
    return found if isinstance(found, torch.Tensor) else found.sequences


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_generate_gives_the_originals_ids(model, original, tokenizer, way):
    inputs = tokenizer("Once upon a time", return_tensors="pt")
    arguments = {"max_new_tokens": None, **way} if "generation_config" in way else way
    expected = generated(original, inputs, **arguments)
    assert torch.equal(generated(model, inputs, **arguments), expected)


def test_generate_gives_the_originals_ids_for_a_padded_batch(model, original, tokenizer):
    inputs = tokenizer(["Once upon a time there was", "The king", "def f(x):"], return_tensors="pt", padding=True)
    assert (inputs["attention_mask"] == 0).any()
    for way in (WAYS["greedy"], WAYS["beams"], WAYS["no cache"]):
        assert torch.equal(generated(model, inputs, **way), generated(original, inputs, **way))


def test_generate_gives_the_context_back(compiled, model, tokenizer):
    inputs = tokenizer("The king", return_tensors="pt")
    generated(model, inputs, num_beams=2)
    _, context = compiled._contexts._kept
    generated(model, inputs, num_beams=2)
    assert compiled._contexts._kept[1] is context


def test_streamer_hears_the_text(model, tokenizer, capsys):
    inputs = tokenizer("The king", return_tensors="pt")
    ids = generated(model, inputs, do_sample=False, streamer=TextStreamer(tokenizer))
    assert capsys.readouterr().out.strip() == tokenizer.decode(ids[0]).strip()


def test_call_gives_the_originals_logits(model, original, tokenizer):
    inputs = tokenizer(["Once upon a time there was", "The king"], return_tensors="pt", padding=True)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        expected = original(**inputs).logits
    found = model(**inputs).logits
    assert (found - expected)[real].abs().max() <= 1e-5 * expected.abs().max()
    assert not found[~real].any()
    assert torch.equal(model(**inputs, logits_to_keep=2).logits, found[:, -2:])
    assert torch.equal(model(**inputs, logits_to_keep=1, return_dict=False)[0], found[:, -1:])


def test_pipeline_continues_texts(model, tokenizer, capsys):
    texts = ["The king", "Once upon a time"]
    made = pipeline("text-generation", model=model, tokenizer=tokenizer)
    found = made(texts, max_new_tokens=8, do_sample=False, batch_size=2)
    alone = [made(text, max_new_tokens=8, do_sample=False) for text in texts]
    assert found == alone
    assert all(result[0]["generated_text"].startswith(text) for result, text in zip(found, texts, strict=True))
    assert "not supported" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (dict(output_attentions=True), "output_attentions cannot be used"),
        (dict(output_hidden_states=True), "output_hidden_states cannot be used"),
        (dict(guidance_scale=2.0), "guidance_scale cannot be used"),
        (dict(cache_implementation="static"), "cache_implementation cannot be used"),
        (dict(penalty_alpha=0.5, top_k=4), "penalty_alpha cannot be used"),
        (dict(past_key_values=DynamicCache()), "past_key_values cannot be used"),
        (dict(generation_config=GenerationConfig(dola_layers="low")), "dola_layers cannot be used"),
        (dict(max_new_tokens=1000), "the model's context has 512"),
        (dict(attention_mask=torch.tensor([[1, 0, 1]])), "padding must be at the ends"),
    ],
)
def test_generate_names_what_cannot_be_used(model, arguments, named):
    with pytest.raises(InputError, match=named):
        model.generate(torch.tensor([[5, 6, 7]]), **{"pad_token_id": 0, **arguments})


def test_ids_outside_of_the_vocabulary_are_refused(model):
    with pytest.raises(InputError, match="0 to 2047"):
        model.generate(torch.tensor([[5, 10**6]]), pad_token_id=0)
    with pytest.raises(InputError, match="0 to 2047"):
        model(torch.tensor([[5, 10**6]]))


def test_a_device_it_cannot_be_moved_to_is_refused(model):
    assert model.to("cpu") is model
    with pytest.raises(InputError, match="cannot be moved to cuda"):
        model.to("cuda")
    with pytest.raises(InputError, match=r"cannot be moved to torch\.float16"):
        model.to(torch.float16)


def test_tensors_are_pointed_to_the_model_that_takes_them(compiled):
    with pytest.raises(InputError, match=r"for_transformers\(\)"):
        compiled.generate(torch.tensor([[5, 6, 7]]))


@pytest.fixture(scope="module")
def encoders():
    """An encoder of the library, with random weights, and what becomes of it."""
    torch.manual_seed(1)
    shape = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=32, max_position_embeddings=64)
    module = BertModel(BertConfig(vocab_size=2048, **shape)).eval()
    return module, llmc.compile(module, backend="eager").for_transformers()


def test_encoder_gives_the_originals_outputs_for_a_padded_batch(encoders, tokenizer):
    module, model = encoders
    inputs = dict(tokenizer(["Once upon a time there was", "The king"], return_tensors="pt", padding=True))
    real = inputs["attention_mask"].bool()
    inputs["token_type_ids"] = torch.randint(0, 2, real.shape)
    inputs["position_ids"] = (real.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = module(**inputs)
    del inputs["position_ids"]
    found = model(**inputs)
    assert list(found) == list(expected) and found[0] is found.last_hidden_state
    assert (found.last_hidden_state - expected.last_hidden_state)[real].abs().max() <= 1e-5
    assert not found.last_hidden_state[~real].any()
    # The library pools the first column, which is padding here.
    assert found.pooler_output.shape == expected.pooler_output.shape
    assert torch.allclose(found.pooler_output[0], expected.pooler_output[0], atol=1e-5)
    assert not model.can_generate()
    with pytest.raises(InputError, match="reads no kinds"):
        model(**inputs, kinds=inputs["token_type_ids"])


def test_pipeline_extracts_features(encoders, tokenizer):
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    expected, found = (
        pipeline("feature-extraction", model=one, tokenizer=tokenizer)("The king", return_tensors=True) for one in encoders
    )
    assert found.shape == expected.shape and (found - expected).abs().max() <= 1e-5
