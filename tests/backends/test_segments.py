"""A model cut in two: each part is a program of its own, with activations in and out, and together they give the same bits."""

import numpy as np
import pytest

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.eager.backend import EagerBackend
from llmc.capture.capture import capture
from llmc.errors import InputError, VerificationError
from llmc.ir.program import Program
from llmc.ir.segment import segment
from llmc.pipeline.recipe import resolve
from llmc.plugins.registry import default
from llmc.runtime.batch import Batch
from llmc.runtime.sequences import Sequences
from tests.llmc.models import library_model

BLOCKS = 8


@pytest.fixture(scope="module")
def whole():
    captured = capture(library_model("rope", num_hidden_layers=4))
    return resolve("none").run(captured.program, default()).program


@pytest.fixture(scope="module")
def parts(whole):
    layers = whole.blocks.layers
    border = layers[1][next(iter(whole.blocks.carried))]  # what goes from the second layer to the third
    first = segment(whole, {}, {"hidden": border})
    return first, segment(whole, {"hidden": border}, {"logits": whole.results[0]})


@pytest.mark.parametrize("backend", [EagerBackend, CpuBackend])
def test_two_segments_give_the_bits_of_the_whole_in_every_step(whole, parts, backend):
    one = backend().lower(whole).context(BLOCKS)
    first, second = (backend().lower(part) for part in parts)
    assert second.inputs["hidden"].shape == (72,) and "input_ids" not in second.inputs
    contexts = first.context(BLOCKS), second.context(BLOCKS)
    sequences = Sequences(BLOCKS)
    a, b = sequences.create(), sequences.create()
    generator = np.random.default_rng(0)
    for work in ([(a, 9), (b, 3)], [(a, 1), (b, 1)], [(b, 40)]):
        tokens = [(sequence, generator.integers(0, 101, count).tolist()) for sequence, count in work]
        batch = sequences.batch(tokens, ["all"] * len(tokens))
        expected = np.asarray(one.step(batch)["logits"])
        hidden = np.asarray(contexts[0].step(batch)["hidden"])
        assert hidden.shape == (batch.tokens, 72)
        handed = Batch({"hidden": hidden}, batch.starts, batch.first, batch.tables, batch.out_rows, batch.copies)
        assert np.array_equal(np.asarray(contexts[1].step(handed)["logits"]), expected)
        with pytest.raises(InputError, match="hidden"):
            wrong = Batch({"hidden": hidden[:, :5]}, batch.starts, batch.first, batch.tables, batch.out_rows, batch.copies)
            contexts[1].step(wrong)


def test_segment_is_saved_and_printed_with_its_inputs(parts, tmp_path):
    parts[1].save(tmp_path)
    again = Program.load(tmp_path)
    assert str(again) == str(parts[1]) and str(again).startswith("program(hidden: f32[T, 72]")


def test_rows_that_are_not_known_yet_cannot_be_handed_over(whole):
    with pytest.raises(VerificationError, match="no entry for each token"):
        segment(whole, {"hidden": whole.results[0].args[0]}, {"logits": whole.results[0]})
