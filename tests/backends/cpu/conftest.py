"""A small model that generates, in memory and saved."""

import pytest

from llmc.backends.cpu.backend import CpuBackend
from llmc.runtime.model import CompiledModel, ModelInfo
from tests.backends.cpu.artifacts import TOKENIZER, VOCAB, generating
from tests.backends.cpu.programs import program


@pytest.fixture(scope="module")
def model():
    made = program(generating)
    info = ModelInfo("small", VOCAB, 90, backend="cpu", threads=1)
    return CompiledModel(made, CpuBackend().lower(made), info, TOKENIZER)


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "m")
    return tmp_path / "m"
