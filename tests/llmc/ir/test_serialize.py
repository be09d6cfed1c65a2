"""Programs on disk."""

import torch

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.pattern import ANY
from llmc.ir.program import Program
from llmc.ir.rewrite import Rule
from llmc.ir.weights import Stored


def test_names_of_nodes_survive_saving_whatever_their_order_and_the_weights_are_called(tmp_path):
    editor = Editor()
    x = editor.op(ops.embedding, editor.input("input_ids"), editor.weight(Stored(torch.randn(5, 4)), "mul"))
    for factor in (2.0, 3.0, 4.0):
        x = editor.op(ops.mul, editor.op(ops.relu, x), factor)
    editor.outputs = ("out",)
    editor.graph.output((x,))
    squared = Rule(ops.relu(ANY.x), lambda e, m: e.op(ops.mul, m["x"], m["x"]))
    program = editor.finish().rewrite(squared)
    assert [node.name for node in program.nodes][1:3] == ["mul_3", "mul"]
    program.save(tmp_path)
    assert str(Program.load(tmp_path)) == str(program)
