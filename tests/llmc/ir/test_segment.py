"""Parts of a program as programs of their own; what they compute is looked at in the conformance suite of the backends."""

import pytest

from llmc.capture.capture import capture
from llmc.conformance.modules import library_model
from llmc.errors import VerificationError
from llmc.ir.program import Program
from llmc.ir.segment import segment
from llmc.pipeline.recipe import resolve
from llmc.plugins.registry import default


@pytest.fixture(scope="module")
def whole():
    return resolve("fuse").run(capture(library_model("rope")).program, default()).program


def test_segment_is_saved_and_printed_with_its_inputs(whole, tmp_path):
    border = whole.blocks.layers[0][next(iter(whole.blocks.carried))]
    second = segment(whole, {"hidden": border}, {"logits": whole.results[0]})
    second.save(tmp_path)
    again = Program.load(tmp_path)
    assert str(again) == str(second) and str(again).startswith("program(hidden: f32[T, 72]")


def test_rows_that_are_not_known_yet_cannot_be_handed_over(whole):
    with pytest.raises(VerificationError, match="no entry for each token"):
        segment(whole, {"hidden": whole.results[0].args[0]}, {"logits": whole.results[0]})
