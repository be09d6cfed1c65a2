"""Every op of the dialect in float32, against its reference semantics in float64."""

import pytest

from llmc.conformance.cases import CASES, op_of
from llmc.conformance.together import find
from llmc.conformance.whole import WHOLE
from llmc.ir.op import OPS

TOLERANCE = 5e-6


def test_every_op_of_the_dialect_has_a_case():
    assert set(OPS) == {op_of(name) for name in (*CASES, *WHOLE)}


@pytest.mark.parametrize("name", CASES)
def test_op_agrees_with_its_reference_semantics(subject, name):
    found = find(subject, "op", CASES, name)
    assert found.error <= TOLERANCE
    assert found.same_by_thirteen()
