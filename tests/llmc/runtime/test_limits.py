"""The tables that inputs index, found in programs."""

import pytest
import torch

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.weights import Stored
from llmc.runtime.contract import InputSpec
from llmc.runtime.limits import input_specs


def specs(make):
    """Of a program that gives what `make(editor, ids, position, table)` does."""
    editor = Editor()
    ids, position = editor.input("input_ids"), editor.input("position")

    def table(index, rows):
        found = editor.op(ops.embedding, index, editor.weight(Stored(torch.ones(rows, 4)), "t"))
        return editor.op(ops.reshape, found, shape=(found.meta["type"].width,))

    editor.outputs = ("y",)
    editor.graph.output((make(editor, ids, position, table),))
    program = editor.finish()
    found = input_specs(program)
    assert list(found) == list(program.inputs)
    return found


def test_every_input_has_its_type_and_the_rows_of_the_table_that_it_indexes():
    found = specs(lambda e, ids, position, table: e.op(ops.add, table(ids, 7), table(position, 9)))
    assert found == {"input_ids": InputSpec("int64", (), 7), "position": InputSpec("int64", (), 9)}


def test_input_that_indexes_no_table_has_no_limit():
    def make(e, ids, position, table):
        turned = e.op(ops.reshape, e.op(ops.cast, position, dtype="float32"), shape=(1,))
        return e.op(ops.mul, table(ids, 7), turned)

    assert specs(make) == {"input_ids": InputSpec("int64", (), 7), "position": InputSpec("int64")}


def test_smallest_of_several_tables_counts():
    assert specs(lambda e, ids, position, table: e.op(ops.add, table(ids, 7), table(ids, 5)))["input_ids"].limit == 5


def threefold(e, x):
    return e.op(ops.expand, e.op(ops.reshape, x, shape=(1,)), shape=(3,))


@pytest.mark.parametrize(
    ("view", "limit"),
    [
        (lambda e, x: e.op(ops.select_rows, x), 7),
        (threefold, 7),
        (lambda e, x: e.op(ops.slice_, threefold(e, x), dim=1, start=1, stop=2), 7),
        (lambda e, x: e.op(ops.concat, *[e.op(ops.reshape, y, shape=(1,)) for y in (x, e.op(ops.minimum, x, 3))], dim=1), 7),
        (lambda e, x: e.op(ops.add, x, 2), 5),
        (lambda e, x: e.op(ops.add, 2, x), 5),
        (lambda e, x: e.op(ops.sub, e.op(ops.add, x, 3), 1), 5),
        (lambda e, x: e.op(ops.add, x, 9), 0),
        (lambda e, x: e.op(ops.sub, x, 1), 0),
        (lambda e, x: e.op(ops.minimum, x, 6), None),
        (lambda e, x: e.op(ops.sub, 6, x), None),
        (lambda e, x: e.op(ops.add, x, x), None),
    ],
    ids=["rows", "expand", "slice", "concat", "add", "add-left", "add-sub", "too-far", "sub", "clamp", "reverse", "twice"],
)
def test_index_through_views_and_added_numbers(view, limit):
    assert specs(lambda e, ids, position, table: table(view(e, position), 7))["position"].limit == limit
