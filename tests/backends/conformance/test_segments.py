"""A model cut in two: each part is a program of its own, with activations in and out, and together they give the whole."""

import dataclasses
from functools import cache

import numpy as np
import pytest

from llmc.conformance import models
from llmc.conformance.forms import same_rows
from llmc.conformance.programs import some_ids
from llmc.errors import InputError
from llmc.ir.segment import segment
from llmc.runtime.sequences import Sequences

NAME, WIDTH, VOCAB = "library-rope", 72, 101
BLOCKS = 8


@cache
def parts():
    whole = models.program(NAME, "fuse")
    border = whole.blocks.layers[0][next(iter(whole.blocks.carried))]  # what goes from the first layer to the second
    first = segment(whole, {}, {"hidden": border})
    return first, segment(whole, {"hidden": border}, {"logits": whole.results[0]})


def test_two_segments_give_the_rows_of_the_whole_in_every_step(subject):
    whole = subject.lower(("model", NAME, "fuse"), lambda: models.program(NAME, "fuse"))
    first, second = (subject.lower(("segment", i), lambda i=i: parts()[i]) for i in range(2))
    assert second.inputs["hidden"].shape == (WIDTH,) and "input_ids" not in second.inputs
    one, *two = (executable.context(BLOCKS) for executable in (whole, first, second))
    sequences = Sequences(BLOCKS)
    a, b = sequences.create(), sequences.create()
    for work in ([(a, 9), (b, 3)], [(a, 1), (b, 1)], [(b, 40)]):
        tokens = [(sequence, some_ids(count, VOCAB, seed=count)) for sequence, count in work]
        batch = sequences.batch(tokens, ["all"] * len(tokens))
        expected = np.asarray(one.step(batch)["logits"])
        hidden = np.asarray(two[0].step(batch)["hidden"])
        assert hidden.shape == (batch.tokens, WIDTH)
        handed = dataclasses.replace(batch, inputs={"hidden": hidden})
        assert same_rows(whole, np.asarray(two[1].step(handed)["logits"]), expected)
        with pytest.raises(InputError, match="hidden"):
            two[1].step(dataclasses.replace(batch, inputs={"hidden": hidden[:, :5]}))
