"""Weights in every format, and what a backend may say that its hardware lacks."""

import pytest

from llmc.conformance.formats import FORMATS, REQUIRED, WEIGHTS, rounds
from llmc.conformance.forms import CACHE_BLOCKS, chunked, prefill, relative_error, same_rows
from llmc.conformance.programs import build, exact, some_ids
from llmc.errors import UnsupportedError

TOLERANCE = 5e-6
ROUNDED = 1e-3
"""With int8 activations: an activation that lies between two whole numbers may fall to the other side."""
TOKENS = 39


@pytest.mark.parametrize(("use", "format"), WEIGHTS, ids=["-".join(key) for key in WEIGHTS])
def test_weight_computes_as_what_it_stands_for(subject, use, format):
    program, ids = build(WEIGHTS[use, format]), some_ids(TOKENS)
    if format in subject.backend.lacks:
        with pytest.raises(UnsupportedError):
            subject.lower(("weight", use, format), lambda: program)
        return
    executable = subject.lower(("weight", use, format), lambda: program)
    values = prefill(executable.context(CACHE_BLOCKS, threads=2), ids)
    rounded = rounds(use, format)
    assert relative_error(values, exact(program, ids)) <= (ROUNDED if rounded else TOLERANCE)
    again = chunked(executable.context(CACHE_BLOCKS, threads=1), ids, 13)
    assert same_rows(executable, again, values, ROUNDED if rounded else 1e-5)


def test_formats_are_those_that_run_and_what_is_lacking_has_a_reason(subject):
    backend = subject.backend
    assert not set(backend.formats) & set(backend.lacks)
    assert set(FORMATS) <= {*backend.formats, *backend.lacks}
    assert not set(REQUIRED) & set(backend.lacks), "every backend runs float32, and linear in int8"
    assert all(isinstance(reason, str) and reason.strip() for reason in backend.lacks.values())
