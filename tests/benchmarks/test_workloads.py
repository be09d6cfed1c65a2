"""Names of workloads, and what a step of each has to do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.shapes import SHAPES
from benchmarks.workloads import workload


@given(context=st.integers(1, 9999), batch=st.integers(1, 99))
def test_a_decode_continues_so_many_sequences(context, batch):
    found = workload(f"decode-{context}x{batch}")
    assert (found.tokens, found.rows, found.prompts) == (batch, batch, ())
    assert found.cached(grown=2) == batch * (context + 3) == found.attended(grown=2)


@given(length=st.integers(1, 9999))
def test_a_prefill_reads_one_prompt_for_one_row(length):
    found = workload(f"prefill-{length}")
    assert (found.tokens, found.rows, found.batch) == (length, 1, 0)
    assert found.attended(0) == sum(range(1, length + 1))


def test_sentences_are_of_mixed_length():
    found = workload("encode-64")
    assert len(found.prompts) == 64 and len(set(found.prompts)) == 16 and found.rows == 0


def test_a_mixed_step_reads_and_continues():
    found = workload("mixed")
    assert found.batch and found.prompts and not found.decodes


@pytest.mark.parametrize("name", ["", "decode", "decode-0", "prefill-64x2", "prefill-x", "encode"])
def test_a_name_that_says_nothing_is_refused(name):
    with pytest.raises(ValueError, match="prefill-N"):
        workload(name)


def test_flops_are_those_of_the_modules():
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    shape = SHAPES["tiny"]
    model = AutoModelForCausalLM.from_config(shape.config(), attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones((1, 20), dtype=torch.int64), logits_to_keep=1)
    assert counter.get_total_flops() == shape.flops(20, attended=20 * 20, rows=1)


def test_the_bundled_model_has_the_sizes_of_its_shape():
    import json
    from pathlib import Path

    shape = SHAPES["tiny-lm"]
    config = json.loads((Path(__file__).parents[2] / shape.folder / "config.json").read_text())
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    assert [config[name] for name in sizes] == [shape.vocab, shape.width, shape.hidden, shape.layers, shape.heads]
    assert config["num_key_value_heads"] == shape.kv_heads
    assert config["head_dim"] == shape.head_dim and config["tie_word_embeddings"] == shape.tied
