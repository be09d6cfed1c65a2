"""Weights in every format: those that the backend reads, and those that it is given as float32."""

import pytest

from llmc.conformance.formats import FORMATS, REQUIRED, WEIGHTS, rounds
from llmc.conformance.programs import build
from llmc.conformance.together import find
from llmc.runtime.lowering import decomposed

TOLERANCE = 5e-6
ROUNDED = 1e-3
"""With rounded activations: one that lies between two steps may fall to the other side."""


@pytest.mark.parametrize(("use", "format"), WEIGHTS, ids=["-".join(key) for key in WEIGHTS])
def test_weight_computes_as_what_it_stands_for(subject, use, format):
    found, rounded = find(subject, "weight", WEIGHTS, (use, format)), rounds(use, format)
    assert found.error <= (ROUNDED if rounded else TOLERANCE)
    assert found.same_by_thirteen(ROUNDED if rounded else 1e-5)


def test_formats_are_those_that_are_read_and_all_others_have_a_reason(subject):
    backend = subject.backend
    assert not set(backend.formats) & set(backend.lacks)
    assert set(FORMATS) <= {*backend.formats, *backend.lacks}
    assert not set(REQUIRED) & set(backend.lacks), "every backend reads float32 and int8"
    assert all(isinstance(reason, str) and reason.strip() for reason in backend.lacks.values())


@pytest.mark.parametrize("format", FORMATS)
def test_format_that_is_not_read_is_told_and_no_other(subject, format):
    program = build(WEIGHTS["embedding", format])
    given, records = decomposed(subject.backend, subject.name, program)
    if format in subject.backend.formats:
        assert given is program and not records
        return
    [note] = records[0].notes
    assert subject.backend.lacks[format] in note and str(given.weights["table"].format) == "f32"
    assert records[0].weight_bytes_after == given.weight_bytes() > records[0].weight_bytes_before
