"""A fused op is the ops that it stands for: nothing but time tells them apart."""

import numpy as np
import pytest

from llmc.conformance.forms import CACHE_BLOCKS, chunked, prefill, same_rows
from llmc.conformance.fused import TOGETHER
from llmc.conformance.programs import build, some_ids
from llmc.ir.decompose import decompose

TOKENS = 39


@pytest.mark.parametrize("name", TOGETHER)
def test_fused_ops_give_what_the_ops_that_they_stand_for_give(subject, name):
    program, ids = build(TOGETHER[name]), some_ids(TOKENS)
    whole = subject.lower(("fused", name), lambda: program)
    apart = subject.lower(("apart", name), lambda: decompose(program))
    expected = prefill(apart.context(CACHE_BLOCKS, threads=2), ids)
    assert np.isfinite(expected).all()
    assert same_rows(whole, prefill(whole.context(CACHE_BLOCKS, threads=2), ids), expected)
    assert same_rows(whole, chunked(whole.context(CACHE_BLOCKS, threads=1), ids, 1), expected)
