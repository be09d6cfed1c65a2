"""Fused ops written out in the ops that they stand for."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from torch.fx import Node

from llmc.ir import ops
from llmc.ir.composite import FusedOp
from llmc.ir.edit import Editor
from llmc.ir.op import Op
from llmc.ir.program import Program, type_of


def decompose(program: Program, kept: Set[str] = frozenset()) -> Program:
    """The program without fused ops but those named in `kept`; itself if it has none. Origins stay.

    Rows that are rounded for linear layers which round them themselves are left as they are: rounding twice is rounding once.
    So what was fused by passes comes apart as it was.
    """
    if not any(_is_written_out(node.target, kept) for node in program.nodes):
        return program
    editor = program.edit()

    def make(op: Op, *operands: Any, **attributes: Any) -> Node:
        if _is_written_out(op, kept):
            return op.write_out(make, operands, attributes)  # type: ignore[attr-defined]
        return editor.op(op, *operands, **attributes)

    for node in editor.nodes:
        if _is_written_out(node.target, kept):
            with editor.before(node):
                editor.replace(node, make(node.target, *node.args, **node.kwargs))  # type: ignore[arg-type]
            editor.graph.erase_node(node)
    for node in editor.nodes:
        _replace(editor, node, _half(node) or _shaped_back(node))
    return _unrounded(editor.finish())


def _is_written_out(op: Any, kept: Set[str]) -> bool:
    return isinstance(op, FusedOp) and op.name not in kept


def _replace(editor: Editor, node: Node, simpler: Node | None) -> None:
    if simpler is not None:
        editor.replace(node, simpler)
        editor.graph.erase_node(node)


def _half(node: Node) -> Node | None:
    """The value that a slice takes out of several that were put together."""
    whole: Any = node.args[0]
    where: Any = node.kwargs
    if node.target is ops.slice_ and whole.target is ops.concat and whole.kwargs["dim"] == where["dim"]:
        stop = 0
        for piece in whole.args:
            start, stop = stop, stop + int(type_of(piece).shape[where["dim"]])
            if (start, stop, 1) == (where["start"], where["stop"], where.get("step", 1)):
                return piece
    return None


def _shaped_back(node: Node) -> Node | None:
    """The value that was shaped and is given its own shape again."""
    x: Any = node.args[0]
    back = node.target is ops.reshape and x.target is ops.reshape and type_of(x.args[0]) == type_of(node)
    return x.args[0] if back else None


def _unrounded(program: Program) -> Program:
    editor = program.edit()
    for node in [node for node in editor.nodes if node.target is ops.round_rows]:
        if all(_rounds(user, node) for user in node.users):
            _replace(editor, node, node.args[0])  # type: ignore[arg-type]
    return editor.finish()


def _rounds(user: Node, rows: Node) -> bool:
    """Whether all that a node does with rows that were rounded is to round them in the same way."""
    return user.target in ops.ROUNDING and user.kwargs.get("activations") == rows.kwargs["to"]
