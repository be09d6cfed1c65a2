"""Hostile inputs: checkpoints, configs, sentence encoders and tokenizers."""

from __future__ import annotations

from tests.e2e.hostile import (
    CHECKPOINT,
    EMBEDDING,
    NORM,
    artifact,
    both,
    config,
    data_of,
    deep,
    doubled,
    file,
    folder_at,
    generation_config,
    halved,
    header,
    model,
    sharded,
    tokenizer_config,
    with_header,
    without,
)

OFFSETS = "data_offsets"

CHECKPOINTS = {
    "checkpoint cut in half": model(halved(CHECKPOINT), r"model\.safetensors"),
    "empty checkpoint": model(file(CHECKPOINT, b""), r"model\.safetensors"),
    "header longer than any file": model(data_of(CHECKPOINT, lambda d: b"\xff" * 7 + b"\x7f" + d[8:]), r"model\.safetensors"),
    "header longer than the file": model(data_of(CHECKPOINT, lambda d: b"\0\0\0\x05\0\0\0\0" + d[8:]), r"model\.safetensors"),
    "header that is no JSON": model(data_of(CHECKPOINT, lambda d: with_header(b"{'a': 1}", d)), r"model\.safetensors"),
    "header nested deeply": model(
        data_of(CHECKPOINT, lambda d: with_header(deep('{"a":', "}").encode(), d)), r"model\.safetensors"
    ),
    "offsets beyond the file": model(
        header(lambda h: h[EMBEDDING].update({OFFSETS: [0, 1 << 40], "shape": [1 << 39]})), r"model\.safetensors"
    ),
    "offsets backwards": model(header(lambda h: h[NORM].update({OFFSETS: h[NORM][OFFSETS][::-1]})), r"model\.safetensors"),
    "tensors that overlap": model(header(lambda h: h[NORM].update({OFFSETS: [0, 384]})), r"model\.safetensors"),
    "data of no tensor": model(data_of(CHECKPOINT, lambda d: d + b"\0" * 64), r"model\.safetensors"),
    "dtype of another size": model(header(lambda h: h[NORM].update(dtype="F32")), r"model\.safetensors"),
    "dtype that is not a float": model(header(lambda h: h[NORM].update(dtype="I16")), r"model\.norm\.weight.*I16"),
    "unknown dtype": model(header(lambda h: h[NORM].update(dtype="Q4_K")), r"model\.safetensors"),
    "name twice": model(data_of(CHECKPOINT, doubled), r"model\.safetensors.*model\.norm\.weight"),
    "huge shape": model(header(lambda h: h[NORM].update(shape=[1 << 40, 1 << 40])), r"model\.safetensors"),
    "negative shape": model(header(lambda h: h[NORM].update(shape=[-192])), r"model\.safetensors"),
    "shape that is not the model's": model(
        header(lambda h: h[NORM].update(shape=[h[NORM]["shape"][0] // 2, 2])), r"model\.norm\.weight.*\[\d+, 2\]"
    ),
    "tensor under another name": model(header(lambda h: h.update(x=h.pop(NORM))), r"model\.norm\.weight"),
    "weights that are no number": model(
        data_of(CHECKPOINT, lambda d: d[:-4] + b"\xff\x7f\xff\x7f"), "NaN", "generate {m} def --backend eager"
    ),
    "pickled checkpoint only": model(both(without(CHECKPOINT), file("m/pytorch_model.bin", b"\x80\x04.")), "safetensors"),
    "folder in place of the checkpoint": model(folder_at(CHECKPOINT), r"model\.safetensors"),
    "shard that is missing": model(sharded({NORM: "model-00002-of-00002.safetensors"}), "model-00002-of-00002"),
    "shard outside of the folder": model(sharded({NORM: "../../secret.safetensors"}), r"secret\.safetensors"),
    "shard at an absolute path": model(sharded({NORM: "/etc/passwd"}), "/etc/passwd"),
    "index that is no JSON": model(sharded("{"), r"index\.json"),
    "index without a map": model(sharded("[]"), r"index\.json"),
}

CONFIGS = {
    "no heads": model(config(num_attention_heads=0), "num_attention_heads"),
    "heads that do not divide": model(config(num_key_value_heads=5), r"k_proj\.weight.*config\.json"),
    "negative width": model(config(hidden_size=-192), "hidden_size"),
    "width as a text": model(config(hidden_size="wide"), "hidden_size|m: "),
    "huge vocabulary": model(config(vocab_size=1 << 45), "vocab_size"),
    "huge number of layers": model(config(num_hidden_layers=1_000_000_000), "num_hidden_layers"),
    "no layers": model(config(num_hidden_layers=0), "num_hidden_layers"),
    "no width of a head": model(config(head_dim=0), "head_dim"),
    "no positions": model(config(max_position_embeddings=0), "max_position_embeddings"),
    "epsilon that is no number": model(config(rms_norm_eps=float("nan")), "rms_norm_eps"),
    "activation that there is not": model(config(hidden_act="os.system"), r"os\.system"),
    "no model type": model(config(model_type=None, architectures=None), "model_type"),
    "unknown model type": model(config(model_type="transmogrifier"), "transmogrifier"),
    "code of its own": model(
        config(model_type="transmogrifier", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}),
        "transmogrifier|code",
    ),
    "encoder and decoder": model(config(model_type="t5", architectures=["T5ForConditionalGeneration"]), "m: "),
    "rope of no kind": model(config(rope_parameters={"rope_type": "spiral", "rope_theta": 10000.0}), "spiral"),
    "config that is a list": model(file("m/config.json", "[]"), r"config\.json"),
    "config that is no JSON": model(file("m/config.json", "{"), r"config\.json"),
    "config that is no text": model(file("m/config.json", b"\xff\xfe{}"), r"config\.json"),
    "config nested deeply": model(file("m/config.json", deep('{"a":', "}")), r"config\.json"),
    "no config": model(without("m/config.json"), r"config\.json"),
    "end of text that is no id": model(generation_config(eos_token_id="end"), "eos_token_id"),
}

END = b'"<|endoftext|>"'
KIND = "sentence_transformers.models"
SENTENCES = {
    "modules of a sentence encoder that are garbage": model(file("m/modules.json", "{"), r"modules\.json"),
    "module that there is not": model(
        file("m/modules.json", '[{"type": "os.system", "path": ""}]'), r"modules\.json.*os\.system"
    ),
    "module above the folder": model(
        file("m/modules.json", f'[{{"type": "{KIND}.Transformer", "path": "../../secret"}}]'),
        r"modules\.json.*\.\./\.\./secret",
    ),
    "modules without pooling": model(
        file("m/modules.json", f'[{{"type": "{KIND}.Transformer", "path": ""}}]'), r"modules\.json"
    ),
    "text that no encoder is given": artifact(lambda folder: None, "no output.*logits", "encode {a} def"),
}

TOKENIZERS = {
    "tokenizer that is garbage": model(file("m/tokenizer.json", b"\0\1\2garbage"), r"tokenizer\.json"),
    "tokenizer cut in half": model(halved("m/tokenizer.json"), r"tokenizer\.json"),
    "tokenizer nested deeply": model(file("m/tokenizer.json", deep("[", "]")), r"tokenizer\.json"),
    "config of the tokenizer that is garbage": model(file("m/tokenizer_config.json", "{"), r"tokenizer_config\.json"),
    "chat template that is no text": model(file("m/chat_template.jinja", b"\xff\xfe"), r"chat_template\.jinja"),
    "chat template that breaks out": model(
        tokenizer_config(chat_template="{{ ''.__class__.__mro__ }}"), "chat template", "chat {m} --backend eager", b"hello\n"
    ),
    "tokenizer of another model": model(
        data_of("m/tokenizer.json", lambda d: d.replace(END + b": 0", END + b": 4999").replace(b'"id": 0,', b'"id": 4999,')),
        "token id 4999",
        "generate {m} '<|endoftext|>' --backend eager",
    ),
}
