"""Programs that read whole sequences: what makes one, what they cost, and what is refused."""

import pytest
import torch
from torch.nn import functional as F

from llmc.errors import VerificationError
from llmc.ir import ops
from llmc.ir.axes_report import axes
from llmc.ir.cost import cache_bytes_per_token
from llmc.ir.edit import Editor
from llmc.ir.module import SequenceContext
from llmc.ir.program import Program
from llmc.ir.score import CAUSAL, SCORE, TRUE
from llmc.ir.weights import Stored


def built(make):
    editor = Editor()
    ids = editor.input("input_ids")
    x = editor.op(ops.embedding, ids, editor.weight(Stored(torch.randn(11, 6)), "table"))
    result = make(editor, editor.op(ops.reshape, x, shape=(2, 3)))
    editor.outputs = ("out",)
    editor.graph.output((result,))
    return editor.finish()


def attend(admits=TRUE, reach=None, heads=2, **attributes):
    def make(editor, x):
        extra = () if reach is None else (None, editor.weight(Stored(torch.randn(heads, reach)), "bias"))
        return editor.op(ops.attention, x, x, x, *extra, scale=0.5, score=SCORE, admits=admits, **attributes)

    return make


@pytest.mark.parametrize(("make", "whole"), [
    (attend(CAUSAL), False),
    (attend(CAUSAL, causal=False), True),
    (attend(TRUE, causal=False), True),
    (lambda e, x: e.op(ops.pool, x, how="mean"), True),
    (lambda e, x: e.op(ops.neg, e.op(ops.pool, x, how="last")), True),
    (lambda e, x: e.op(ops.select_rows, x), False),
])  # fmt: skip
def test_attention_to_later_positions_and_pooling_need_whole_sequences(make, whole, tmp_path):
    program = built(make)
    assert program.whole_sequences is whole
    attentions = len(program.find("attention"))
    assert cache_bytes_per_token(program) == (0 if whole else 2 * 6 * 4 * attentions)
    assert sum(found["cache_bytes_per_token"] for found in axes(program)["attentions"]) == cache_bytes_per_token(program)
    program.save(tmp_path)
    assert str(Program.load(tmp_path)) == str(program)


@pytest.mark.parametrize(("make", "message"), [
    (attend(TRUE), "not proved to leave out later positions"),
    (attend(CAUSAL, reach=5), "over whole sequences only"),
    (attend(TRUE, reach=4, causal=False), r"bias \[2, 2 M \+ 1\]"),
    (attend(TRUE, reach=5, heads=3, causal=False), r"bias \[2, 2 M \+ 1\]"),
    (lambda e, x: e.op(ops.pool, x, how="median"), "pool knows no 'median'"),
    (lambda e, x: e.op(ops.pool, e.op(ops.select_rows, x), how="mean"), "one entry a token"),
    (lambda e, x: e.op(ops.pool, e.op(ops.gt, x, 0), how="mean"), "computes with float32"),
    (lambda e, x: e.op(ops.add, x, e.op(ops.pool, x, how="first")), "T"),
])  # fmt: skip
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(VerificationError, match=message):
        built(make)


def test_bias_is_added_by_distance_and_ends_at_its_reach():
    torch.manual_seed(0)
    q, k, v, bias = torch.randn(7, 2, 3), torch.randn(7, 2, 3), torch.randn(7, 2, 3), torch.randn(2, 5)
    position = torch.arange(7)
    context = SequenceContext(position, position)
    found = ops.attention(q, k, v, None, bias, scale=0.5, score=SCORE, admits=TRUE, causal=False, context=context)
    table = torch.tensor([[[bias[h, min(max(j - i, -2), 2) + 2] for j in range(7)] for i in range(7)] for h in range(2)])
    expected = F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in (q, k, v)), attn_mask=table, scale=0.5)
    assert torch.allclose(found, expected.transpose(0, 1), atol=1e-6)
