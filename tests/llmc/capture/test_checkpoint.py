"""Checkpoints in shards and any precision: weights stay on disk as they are."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmc.capture.capture import capture
from llmc.capture.checkpoint import map_weights
from llmc.capture.source import open_source
from llmc.ir.formats import Dense
from llmc.ir.weights import Computed, Loaded
from tests.e2e.families import built

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TIED, TURNED, SCALED, TABLES = "Llama, tied", "GPT-2", "Gemma", "GPT-J"
"""A head that is the table of ids; weights that are stored the other way around; norms that add one to theirs;
tables of angles that are computed as the model is made."""


def saved(folder, name, dtype):
    module = built(name).to(dtype)
    module.config.dtype = dtype
    module.save_pretrained(folder, max_shard_size="30KB")
    return folder


def stored(weight):
    """What a weight is made from."""
    return [part for base in weight.bases for part in stored(base)] if isinstance(weight, Computed) else [weight]


def relative_error(folder, program, ids):
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)(ids[None]).logits[0]
        found = program.as_module()(ids)["logits"]
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [TIED, TURNED, SCALED])
def test_weights_in_shards_stay_on_disk_in_their_precision(tmp_path, name, dtype):
    folder = saved(tmp_path, name, DTYPES[dtype])
    assert len(list(folder.glob("model-*.safetensors"))) >= 3
    source = open_source(folder)
    program = map_weights(capture(source.module).program, source.module, folder)
    kept = [part for weight in program.weights.values() for part in stored(weight)]
    loaded = [part for part in kept if isinstance(part, Loaded)]
    assert {part.format for part in loaded} == {Dense(dtype)}
    assert len(kept) - len(loaded) <= 1  # frequencies are in no checkpoint
    assert len({part.names["values"] for part in loaded}) == len(json.loads(
        (folder / "model.safetensors.index.json").read_text())["weight_map"])  # fmt: skip
    assert relative_error(folder, program, torch.arange(40) % 11) < 1e-6


def test_names_that_the_library_changes_are_found_by_their_numbers(tmp_path):
    folder = saved(tmp_path, TURNED, torch.float32)
    for path in folder.glob("*.safetensors"):
        save_file({name.removeprefix("transformer."): t for name, t in load_file(path).items()}, path, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"transformer.', '"'))
    source = open_source(folder)
    program = map_weights(capture(source.module).program, source.module, folder)
    assert all(isinstance(part, Loaded) for weight in program.weights.values() for part in stored(weight))


def test_half_precision_is_mapped_and_never_copied(tmp_path):
    folder = saved(tmp_path, TIED, torch.bfloat16)
    module = open_source(folder).module
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    before = {name: parameter.data_ptr() for name, parameter in module.named_parameters()}
    capture(module)
    assert before == {name: parameter.data_ptr() for name, parameter in module.named_parameters()}


def test_tables_that_the_library_computes_are_in_float32(tmp_path):
    folder = saved(tmp_path, TABLES, torch.bfloat16)
    source = open_source(folder)
    assert all(buffer.dtype == torch.float32 for buffer in source.module.buffers() if buffer.is_floating_point())
    program = map_weights(capture(source.module).program, source.module, folder)
    assert relative_error(folder, program, torch.arange(40) % 11) < 1e-6


@pytest.mark.parametrize("name", [TIED, "Falcon, ALiBi"])
def test_half_precision_in_memory_is_computed_with_in_float32(name):
    module = built(name).bfloat16()
    program, ids = capture(module).program, torch.arange(20) % 11
    with torch.no_grad():
        expected = copy.deepcopy(module).double()(ids[None]).logits[0]
        found = program.as_module()(ids)["logits"]
    assert float((found - expected).norm() / expected.norm()) < 1e-6
