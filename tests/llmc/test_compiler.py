"""Arguments of compile, and models by name."""

import shutil
from pathlib import Path

import pytest
import torch

import llmc
from llmc.errors import CaptureError, InputError, LLMCError

MODEL = Path(__file__).resolve().parents[2] / "examples" / "tiny_lm" / "model"

ARGUMENTS = {
    "no context": {"max_context": 0},
    "half a context": {"max_context": 2.5},
    "context of another kind": {"max_context": "x"},
    "context beyond the model": {"max_context": 513},
    "no threads": {"threads": 0},
    "no backend": {"backend": None},
    "unknown backend": {"backend": "gpu"},
    "recipe of another kind": {"recipe": 3},
    "pass of another kind": {"passes": [3]},
    "folder of the dump": {"dump_dir": MODEL / "config.json" / "dump"},
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_cannot_be_used_are_refused(case):
    with pytest.raises(LLMCError) as error:
        llmc.compile(MODEL, **{"backend": "eager", **ARGUMENTS[case]})
    assert "\n" not in str(error.value)


def test_max_context_limits_the_prompt():
    model = llmc.compile(MODEL, backend="eager", max_context=5)
    with pytest.raises(InputError, match="has 5"):
        model([[1, 2, 3, 4, 5, 6]])


@pytest.mark.parametrize("inputs", [torch.tensor([[1, 2, 3]]), 5, (torch.ones(1, 3),), ()])
def test_example_inputs_of_another_form_are_refused(inputs):
    with pytest.raises(CaptureError, match="example"):
        llmc.compile(torch.nn.Linear(2, 2), example_inputs=inputs)


def test_model_of_the_hub_comes_with_its_tokenizer(tmp_path, monkeypatch):
    """A cache as the hub's client lays it out; nothing is fetched."""
    commit = "0" * 40
    home = tmp_path / "models--somebody--tiny"
    shutil.copytree(MODEL, home / "snapshots" / commit, ignore=shutil.ignore_patterns("heldout.txt"))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path), raising=False)
    model = llmc.compile("somebody/tiny", backend="eager")
    assert model.generate("import", max_new_tokens=2).text and model.info.source == "somebody/tiny"
