"""Every op of the dialect in float32, against its reference semantics in float64."""

import pytest

from llmc.conformance.cases import CASES, op_of
from llmc.conformance.forms import CACHE_BLOCKS, chunked, prefill, relative_error, same_rows
from llmc.conformance.programs import build, exact, some_ids
from llmc.conformance.whole import WHOLE
from llmc.ir.op import OPS

TOLERANCE = 5e-6
TOKENS = 39


def test_every_op_of_the_dialect_has_a_case():
    assert set(OPS) == {op_of(name) for name in (*CASES, *WHOLE)}


@pytest.mark.parametrize("name", CASES)
def test_op_agrees_with_its_reference_semantics(subject, name):
    program, ids = build(CASES[name]), some_ids(TOKENS)
    executable = subject.lower(("op", name), lambda: program)
    values = prefill(executable.context(CACHE_BLOCKS, threads=2), ids)
    assert relative_error(values, exact(program, ids)) <= TOLERANCE
    assert same_rows(executable, chunked(executable.context(CACHE_BLOCKS, threads=1), ids, 13), values)
