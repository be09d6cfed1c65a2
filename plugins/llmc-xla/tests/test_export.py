"""Export for a platform that is not here, and for one that is."""

import jax.export
import numpy as np
import pytest
from llmc_xla import shapes
from llmc_xla.executable import semantics
from llmc_xla.export import export
from xla_cases import TINY_LM

import llmc
from llmc.runtime.sequences import Sequences


@pytest.fixture(scope="module", params=["fuse", "int8"])
def model(request):
    return llmc.compile(TINY_LM, backend="xla", recipe=request.param)


def test_bundled_model_is_exported_for_tpu(model):
    exported = jax.export.deserialize(export(model.executable, "tpu"))
    assert exported.platforms == ("tpu",)
    module = str(exported.mlir_module())
    assert "stablehlo.dot_general" in module and "f64>" not in module
    vocabulary = model.info.vocab_size
    assert [(value.shape, value.dtype) for value in exported.out_avals][-1] == ((1, vocabulary), np.float32)


def test_cpu_twin_of_the_export_gives_the_logits_of_the_step(model):
    executable = model.executable
    sequences = Sequences(16)
    batch = sequences.batch([(sequences.create(), list(range(3, 40)))], ["all"])
    context = executable.context(16)
    shape = shapes.Shape.of(batch, context.capacity)
    twin, tpu = (jax.export.deserialize(export(executable, platform, shape)) for platform in ("cpu", "tpu"))
    assert twin.in_avals == tpu.in_avals and twin.out_avals == tpu.out_avals
    assert str(twin.mlir_module()) == str(tpu.mlir_module())
    arrays = shapes.arrays(batch, shape, executable.inputs)
    with semantics():
        _, outputs = twin.call(executable.weights, executable.new_cache(context.capacity), arrays)
    assert np.array_equal(np.asarray(outputs["logits"])[:37], context.step(batch)["logits"])


def test_program_is_exported_without_an_executable(model):
    assert jax.export.deserialize(export(model.program, "tpu")).platforms == ("tpu",)
