"""Score expressions: masks, windows, caps, biases, sinks, and all of them together."""

import pytest

from llmc.conformance.forms import CACHE_BLOCKS, chunked, prefill, relative_error, same_rows
from llmc.conformance.programs import build, exact, some_ids
from llmc.conformance.scores import EXPRESSIONS, SCORES, functions
from llmc.ir.score import FUNCTIONS

TOLERANCE = 5e-6
TOKENS = 39


def test_every_function_of_score_expressions_has_a_case():
    expressions = [expr for score, admits, _ in EXPRESSIONS.values() for expr in (score, admits)]
    assert set(FUNCTIONS) == {name for expr in expressions for name in functions(expr)}


@pytest.mark.parametrize("name", SCORES)
def test_attention_computes_the_expression(subject, name):
    program, ids = build(SCORES[name]), some_ids(TOKENS)
    executable = subject.lower(("score", name), lambda: program)
    values = prefill(executable.context(CACHE_BLOCKS, threads=2), ids)
    assert relative_error(values, exact(program, ids)) <= TOLERANCE
    assert same_rows(executable, chunked(executable.context(CACHE_BLOCKS, threads=1), ids, 13), values)
