"""Attention of the eager backend over its cache."""

import numpy as np
import pytest
import torch

from llmc.backends.eager.backend import EagerBackend
from llmc.conformance.forms import prefill
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.score import CAUSAL, SCORE
from llmc.ir.weights import Stored

ROLES = {"same-query-and-key": "aab", "same-query-and-value": "aba", "same-key-and-value": "abb", "one-for-all": "aaa"}


@pytest.mark.parametrize("roles", ROLES.values(), ids=ROLES)
def test_operands_may_be_one_value_in_several_roles(roles):
    torch.manual_seed(0)
    editor = Editor()
    tables = {name: editor.weight(Stored(torch.randn(11, 12)), name) for name in "ab"}
    ids = editor.input("input_ids")
    heads = {n: editor.op(ops.reshape, editor.op(ops.embedding, ids, table), shape=(3, 4)) for n, table in tables.items()}
    attended = editor.op(ops.attention, *(heads[role] for role in roles), scale=0.5, score=SCORE, admits=CAUSAL)
    editor.outputs = ("logits",)
    editor.graph.output((editor.op(ops.reshape, attended, shape=(12,)),))
    program, tokens = editor.finish(), [3, 1, 4, 1, 5, 9]
    found = prefill(EagerBackend().lower(program).context(4), tokens)
    assert np.allclose(found, program.as_module()(torch.tensor(tokens))["logits"].numpy(), atol=1e-6)
