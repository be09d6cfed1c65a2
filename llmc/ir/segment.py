"""A part of a program as a program of its own, with activations in and out: what a pipeline stage lowers."""

from __future__ import annotations

from collections.abc import Mapping

from torch.fx import Node

from llmc.errors import VerificationError
from llmc.ir.edit import Editor
from llmc.ir.program import Program, origin_of, type_of


def segment(program: Program, inputs: Mapping[str, Node], outputs: Mapping[str, Node]) -> Program:
    """The program from some of its nodes to others.

    inputs: the nodes that are given, by the names of the segment's inputs; inputs of the whole program are read besides, where
    they are needed. outputs: the nodes that it gives, by name. Weights are shared. Raises VerificationError if a given node has
    one entry a requested row or sequence.
    """
    editor = Editor()
    editor.weights, editor.outputs = dict(program.weights), tuple(outputs)
    made: dict[Node, Node] = {}
    for name, node in inputs.items():
        if type_of(node).rows != "T":
            raise VerificationError(f"'{node}' {type_of(node)} has no entry for each token: no segment can be given it")
        made[node] = editor.input(name, type_of(node))
    needed, pending = set(made), list(outputs.values())
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending.extend(node.all_input_nodes)
    for node in program.graph.nodes:
        if node not in needed or node in made:
            continue
        if node.op == "placeholder":
            made[node] = editor.input(str(node.target), type_of(node))
        elif node.op == "get_attr":
            made[node] = editor.named_weight(str(node.target))
        else:
            editor.origin = origin_of(node)
            operands = [made[arg] if isinstance(arg, Node) else arg for arg in node.args]
            made[node] = editor.named_op(node.name, node.target, *operands, **node.kwargs)  # type: ignore[arg-type]
    editor.graph.output(tuple(made[node] for node in outputs.values()))
    return editor.finish()
