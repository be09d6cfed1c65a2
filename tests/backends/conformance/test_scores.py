"""Score expressions: masks, windows, caps, biases, sinks, and all of them together."""

import pytest

from llmc.conformance.scores import EXPRESSIONS, SCORES, functions
from llmc.conformance.together import find
from llmc.ir.score import FUNCTIONS

TOLERANCE = 5e-6


def test_every_function_of_score_expressions_has_a_case():
    expressions = [expr for score, admits, _ in EXPRESSIONS.values() for expr in (score, admits)]
    assert set(FUNCTIONS) == {name for expr in expressions for name in functions(expr)}


@pytest.mark.parametrize("name", SCORES)
def test_attention_computes_the_expression(subject, name):
    found = find(subject, "score", SCORES, name)
    assert found.error <= TOLERANCE
    assert found.same_by_thirteen()
