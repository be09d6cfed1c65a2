"""Remove what changes nothing, compute nothing twice, write one thing in one way."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.identity import node_key
from llmc.ir.op import Op
from llmc.ir.program import Program, origin_of, type_of
from llmc.pipeline.base import Pass, PassContext

POWERS = {2: 2, 3: 3}


class Canonicalize(Pass):
    """Fold constants and neutral operations, compute equal values once, and drop what nobody reads.

    Before:  pow(reshape(reshape(x)) * 1.0, 2);  cos(p), cos(p)
    After:   y * y with y = reshape(x);          cos(p) once
    """

    name = "canonicalize"

    def run(self, program: Program, ctx: PassContext) -> Program:
        editor = program.edit(self.name)
        seen: dict[Any, Node] = {}
        changed = False
        for node in editor.nodes:
            better = node
            while (next_one := simpler(editor, better)) is not better:
                better = next_one
            if better.op == "call_function":
                better = seen.setdefault(node_key(better), better)
            if better is not node:
                ctx.matched(origin_of(node))
                editor.replace(node, better)
                editor.graph.erase_node(node)
                changed = True
        dead = any(not node.users for node in editor.nodes)
        return editor.finish() if changed or dead else program


def simpler(editor: Editor, node: Node) -> Node:
    """A node with the same value that is already there or cheaper; the node itself if there is none."""
    op, x = node.target, node.args[0] if node.args else None
    if not isinstance(x, Node) or not isinstance(op, Op):
        return node
    same_type = type_of(x) == type_of(node)
    if same_type and (op in (ops.reshape, ops.expand, ops.cast) or _does_nothing(op, node)):
        return x
    if op is ops.reshape and x.target is ops.reshape:
        return _made(editor, node, ops.reshape, x.args[0], **node.kwargs)
    if op is ops.pow_ and not same_type:  # of whole numbers to a fraction: the product would stay whole
        return node
    if op is ops.pow_ and node.args[1] in POWERS:
        square = _made(editor, node, ops.mul, x, x)
        return square if POWERS[node.args[1]] == 2 else _made(editor, node, ops.mul, square, x)  # type: ignore[index]
    if op is ops.pow_ and node.args[1] in (0.5, -0.5):
        return _made(editor, node, ops.sqrt if node.args[1] == 0.5 else ops.rsqrt, x)
    return node


def _does_nothing(op: Op, node: Node) -> bool:
    """Whether the op gives back its first operand, which has the type of the result."""
    if op in (ops.mul, ops.div, ops.add, ops.sub):
        other: Any = node.args[1]
        return not isinstance(other, Node) and bool(other == (1 if op in (ops.mul, ops.div) else 0))
    if op is ops.slice_:
        return bool(node.kwargs.get("step", 1) == 1)
    if op is ops.permute:
        dims: Any = node.kwargs["dims"]
        return list(dims) == sorted(dims)
    return op is ops.concat and len(node.args) == 1


def _made(editor: Editor, node: Node, op: Op, *operands: Any, **attributes: Any) -> Node:
    with editor.before(node):
        return editor.op(op, *operands, **attributes)
