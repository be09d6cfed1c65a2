"""Experts are quantized as linear layers are."""

import pytest
import torch

from llmc.conformance.cases import CASES
from llmc.conformance.forms import relative_error
from llmc.conformance.programs import build, exact, some_ids
from llmc.pipeline.recipe import resolve
from llmc.plugins.registry import default

FORMATS = {
    "int8": ({"name": "quantize", "bits": 8}, "int8", "int8", 0.05),
    "int4": ({"name": "quantize", "bits": 4, "group_size": 32}, "int4g32", "int8", 0.3),
    "bf16": ("cast-bfloat16", "bf16", "bfloat16", 0.02),
}


@pytest.mark.parametrize(("spec", "form", "activations", "tolerance"), FORMATS.values(), ids=FORMATS)
def test_experts_are_stored_in_the_format_and_stay_near(spec, form, activations, tolerance):
    torch.manual_seed(0)
    program, ids = build(CASES["expert_linear-one"]), some_ids(20)
    done = resolve([], [spec]).run(program, default()).program
    [node] = done.find("expert_linear")
    assert str(done.weight(node.args[2]).format) == form
    assert node.kwargs["activations"] == activations and node.kwargs["experts"] == 1
    assert relative_error(exact(done, ids), exact(program, ids)) <= tolerance
