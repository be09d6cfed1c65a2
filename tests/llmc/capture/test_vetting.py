"""What a checkpoint may look like before a library is let at it; tests/e2e/test_hostile_inputs.py has what it may not."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from llmc.capture.vetting import check_folder, check_loaded, shape_problem
from llmc.conformance.modules import library_model
from llmc.errors import CaptureError


@pytest.fixture(scope="module")
def model():
    return library_model("rope")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two tensors and a config, the least that is a checkpoint."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "config.json").write_text('{"model_type": "any", "num_hidden_layers": 2, "rope_theta": 1e30, "vocab_size": 5}')
    save_file({"a": torch.ones(3, 5), "b": torch.ones(4, dtype=torch.int64)}, folder / "model.safetensors")
    return folder


def test_whole_and_sharded_checkpoints_are_accepted(model, tmp_path):
    model.save_pretrained(tmp_path / "one")
    check_folder(tmp_path / "one")
    size = sum(parameter.nbytes for parameter in model.parameters())
    model.save_pretrained(tmp_path / "many", max_shard_size=size // 3)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    check_folder(tmp_path / "many")
    assert shape_problem(tmp_path / "many", model) == ""


def test_whole_numbers_are_refused_for_parameters_and_not_for_buffers(small):
    module = torch.nn.Module()
    module.a, module.b = torch.nn.Parameter(torch.ones(3, 5)), torch.nn.Buffer(torch.ones(4, dtype=torch.int64))
    check_folder(small)
    check_loaded(str(small), module, [])
    del module.b
    module.b = torch.nn.Parameter(torch.ones(4))
    with pytest.raises(CaptureError, match=r"'b' are of dtype I64"):
        check_loaded(str(small), module, [])


def test_tensor_of_another_shape_is_named_with_both(small):
    module = torch.nn.Module()
    module.a = torch.nn.Parameter(torch.ones(3, 6))
    assert "'a' is [3, 5], but config.json makes it [3, 6]" in shape_problem(small, module)


def test_weights_that_are_missing_are_counted():
    with pytest.raises(CaptureError, match="lacks 'x' and 1 more"):
        check_loaded("m", torch.nn.Module(), ["y", "x"])


@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_of_any_byte_is_refused_by_name_or_changes_data_only(small, tmp_path, data):
    whole = (small / "model.safetensors").read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    kept = data.draw(st.sampled_from([len(whole), place]))
    damaged = bytearray(whole)
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "config.json").write_text((small / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(damaged[:kept])
    try:
        check_folder(tmp_path)
    except CaptureError as error:
        assert "model.safetensors" in str(error)
    else:
        assert kept == len(whole)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["hidden_size", "n_layer", "a"]), inner, max_size=3), max_leaves=8))  # fmt: skip
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_config_of_any_content_is_accepted_or_refused_by_name(small, tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((small / "model.safetensors").read_bytes())
    try:
        check_folder(tmp_path)
    except CaptureError as error:
        assert "config.json" in str(error)
    else:
        assert isinstance(config, dict)
