"""The bundled model, its held-out text and the n-gram model it is compared with."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "tiny_lm"
MODEL = EXAMPLE / "model"
HELD_OUT_BYTES = 245_668
HELD_OUT_SHA256 = "81b5103bf0b12a6142f3d5b0f6e8470396a6dc7fdc497a6cb997025ecc376179"


@pytest.fixture(scope="module")
def evaluate():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        import evaluate

        yield evaluate


@pytest.fixture(scope="module")
def ngram(evaluate):
    text = evaluate.held_out_text().encode()
    return evaluate.ByteNgram([text[:40_000], text[40_000:80_000]])


def test_held_out_text_is_the_stated_one(evaluate):
    data = evaluate.held_out_text().encode()
    assert len(data) == HELD_OUT_BYTES
    assert hashlib.sha256(data).hexdigest() == HELD_OUT_SHA256
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    assert f"{HELD_OUT_BYTES:,} bytes" in card
    assert HELD_OUT_SHA256 in card


@pytest.mark.skipif(sys.version_info[:3] != (3, 11, 7), reason="the held-out text is that of Python 3.11.7")
def test_held_out_text_is_the_modules_in_order(evaluate):
    modules = list(evaluate.corpus.held_out(evaluate.corpus.standard_library()))
    assert len(modules) == len(evaluate.corpus.HELD_OUT)
    assert "".join(modules) == evaluate.held_out_text()


def test_training_leaves_out_held_out_modules_and_their_tests(evaluate, tmp_path):
    kept = ["ast.py", "test/test_ast.py", "json_like.py"]
    dropped = ["argparse.py", "json/decoder.py", "json/tool.py", "test/test_heapq.py", "test/test_json/test_dump.py"]
    for name in [*kept, *dropped]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"name = {name!r}\n")
    assert sorted(evaluate.corpus.training(tmp_path)) == sorted(f"name = {name!r}\n" for name in kept)


def test_overlap_counts_shared_blocks(evaluate):
    held = "\n".join(f"held line {i}" for i in range(20))
    lines = held.splitlines()
    shared_seven = "\n\n".join(["other"] + ["    " + line for line in lines[4:11]] + ["other"])
    assert evaluate.overlap([held], ["something else\n" * 30]) == (0, 16)
    assert evaluate.overlap([held], ["something else", shared_seven]) == (3, 16)


@pytest.mark.parametrize("training", ["before\nmodule text\nafter", "module"])
def test_overlap_rejects_a_whole_module(evaluate, training):
    with pytest.raises(ValueError, match="contain one another"):
        evaluate.overlap(["module text\n"], ["innocent", training])


def test_model_predicts_the_held_out_text(evaluate):
    bits, parameters = evaluate.model_bits_per_byte(MODEL, evaluate.held_out_text(), tokens=8_000)
    assert parameters == 3_672_320
    assert 0.5 < bits < 1.1


def test_every_token_is_scored_once(evaluate):
    text = evaluate.held_out_text()
    first, _ = evaluate.model_bits_per_byte(MODEL, text, tokens=511)
    both, _ = evaluate.model_bits_per_byte(MODEL, text, tokens=1_022)
    tokenizer = evaluate.AutoTokenizer.from_pretrained(MODEL)
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)[:1_022]
    halves = [tokenizer.decode(ids[:511]), tokenizer.decode(ids[511:])]
    model = evaluate.AutoModelForCausalLM.from_pretrained(MODEL, dtype=evaluate.torch.float32)
    row = evaluate.torch.tensor([[tokenizer.bos_token_id, *ids[511:]]])
    with evaluate.torch.inference_mode():
        second = model(row, labels=row).loss.item() * 511 / np.log(2)
    assert both * len("".join(halves)) == pytest.approx(first * len(halves[0]) + second, rel=1e-4)


@pytest.mark.parametrize("context", [b"self", b"    ", b"\n\n\n\n", b"retu", b"\xff\xfe\x00\x01", b"qzxf"])
def test_ngram_probabilities_sum_to_one(ngram, context):
    base = np.uint64(int.from_bytes(context, "big") << 8)
    probabilities = ngram.probabilities(base | np.arange(256, dtype=np.uint64))
    assert (probabilities > 0).all()
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)


def test_ngram_follows_the_formula(evaluate):
    """Two bytes, by hand: after `a` come `b` twice and `c` once; the unigrams are a 3, b 2, c 1."""
    model = evaluate.ByteNgram([b"ab", b"ab", b"ac"], order=2)
    unigram = (2 + 3 / 256) / (6 + 3)
    assert model.probabilities(np.array([ord("a") << 8 | ord("b")], dtype=np.uint64)) == pytest.approx(
        [(2 + 2 * unigram) / (3 + 2)]
    )


def test_ngram_beats_uniform_and_lower_orders(evaluate, ngram):
    text = evaluate.held_out_text().encode()
    unigrams = evaluate.ByteNgram([text[:80_000]], order=1)
    unseen = text[80_000:100_000]
    assert ngram.bits_per_byte(unseen) < unigrams.bits_per_byte(unseen) - 1 < 8 - 1


@pytest.mark.parametrize("order", [0, 9])
def test_ngram_order_is_limited(evaluate, order):
    with pytest.raises(ValueError, match="from 1 to 8"):
        evaluate.ByteNgram([b"text"], order)


def test_weights_are_small_and_bf16():
    path = MODEL / "model.safetensors"
    assert path.stat().st_size <= 8_000_000
    with safe_open(path, "numpy") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118


def test_config_suits_blockwise_quantization():
    """Rows of each weight matrix are whole super-blocks of 256 values."""
    config = json.loads((MODEL / "config.json").read_text())
    assert config["vocab_size"] == 2048
    assert config["tie_word_embeddings"]
    for name in ("hidden_size", "intermediate_size"):
        assert config[name] % 256 == 0
    with safe_open(MODEL / "model.safetensors", "numpy") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    assert all(shape[-1] % 256 == 0 for shape in shapes)
