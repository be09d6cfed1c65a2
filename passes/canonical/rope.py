"""Recognise rotary positions that are written out."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.pattern import ANY, Match
from llmc.ir.program import Program, origin_of, type_of
from llmc.ir.rewrite import Rule
from llmc.pipeline.base import Pass, PassContext

WRITTEN_OUT = ops.add(
    ops.mul(ANY.x, ANY.cos), ops.mul(ops.concat(ops.neg(ops.slice_(ANY.x)), ops.slice_(ANY.x)), ANY.sin)
)
PARTIAL = ops.concat(ops.rope(ops.slice_(ANY.x), ANY.cos, ANY.sin, layout="halves"), ops.slice_(ANY.x))


class RaiseRope(Pass):
    """One `rope` op in place of the rotation of two halves, with cos and sin of one half only.

    Before:  x * cos(concat(f, f)) + concat(-x[P:], x[:P]) * sin(concat(f, f))
    After:   rope(x, cos(f), sin(f), layout="halves")

    A single head [T, D] becomes [T, 1, D] for the rope.
    """

    name = "raise-rope"
    after = frozenset({"canonicalize"})

    def run(self, program: Program, ctx: PassContext) -> Program:
        halves: dict[Node, Node | None] = {}

        def build(editor: Editor, match: Match) -> Node:
            cos, sin = (half(editor, angle(match[name]), halves) for name in ("cos", "sin"))
            return turn(editor, match["x"], cos, sin)

        program = program.rewrite(Rule(WRITTEN_OUT, build, is_rotation), ctx)
        return program.rewrite(Rule(PARTIAL, turn_part, is_partial), ctx)


def bounds(node: Any) -> tuple[int, int, int, int]:
    """(dim, start, stop, step) of a slice."""
    return node.kwargs["dim"], node.kwargs["start"], node.kwargs["stop"], node.kwargs.get("step", 1)


def is_rotation(match: Match) -> str | None:
    """The halves must be those of the last dimension, and cos and sin repeat theirs."""
    x = type_of(match["x"])
    last, size = len(x.shape) - 1, int(x.shape[-1])
    concat = next(node for node in match.nodes if node.target is ops.concat)
    if concat.kwargs["dim"] != last:
        return "its halves are joined along another dimension than the last"
    first, second = concat.args[1], concat.args[0].args[0]  # type: ignore[union-attr]
    if bounds(first) != (last, 0, size // 2, 1) or bounds(second) != (last, size // 2, size, 1):
        return "what is turned is not the two halves of the last dimension"
    for name in ("cos", "sin"):
        if angle(match[name]) is None or not repeats(angle(match[name])):
            return f"{name} is not known to be the same for both halves"
    return None


def angle(node: Node) -> Any:
    """The value [T, size] behind its broadcast over heads, or None."""
    if node.target is ops.reshape and all(size == 1 for size in type_of(node).fixed[:-1]):
        node = node.args[0]  # type: ignore[assignment]
    return node if node.op == "call_function" and len(type_of(node).fixed) == 1 else None


def repeats(node: Any) -> bool:
    """Whether the two halves of a value are equal by the way it is computed."""
    if node.target is ops.concat:
        return len(node.args) == 2 and node.args[0] is node.args[1]
    if node.target in (ops.cos, ops.sin):
        return repeats(node.args[0])
    scaled = node.target is ops.mul and isinstance(node.args[0], Node) and not isinstance(node.args[1], Node)
    return scaled and repeats(node.args[0])


def half(editor: Editor, node: Any, made: dict[Node, Node | None]) -> Node:
    """The first half of a value whose halves are equal; made once, where the whole is."""
    if node.target is ops.concat:
        return node.args[0]
    if made.get(node) is None:
        inner = half(editor, node.args[0], made)
        with editor.after(node, origin_of(node)):
            made[node] = editor.op(node.target, inner, *node.args[1:], **node.kwargs)
    return made[node]  # type: ignore[return-value]


def is_partial(match: Match) -> str | None:
    """What is turned must be the start of x, and what is joined to it the rest."""
    turned, rest = match.root.args[0].args[0], match.root.args[1]  # type: ignore[union-attr]
    x = type_of(match["x"])
    last, size = len(x.shape) - 1, int(x.shape[-1])
    cut = 2 * int(type_of(match["cos"]).shape[-1])
    whole = bounds(turned) == (last, 0, cut, 1) and bounds(rest) == (last, cut, size, 1)
    return None if whole and match.root.kwargs["dim"] == last else "it turns another part than the first"


def turn_part(editor: Editor, match: Match) -> Node:
    """rope turns the first elements and leaves the rest."""
    return turn(editor, match["x"], match["cos"], match["sin"])


def turn(editor: Editor, x: Node, cos: Node, sin: Node) -> Node:
    """rope over x; a single head without a dimension of its own gets one for the time being."""
    fixed = type_of(x).fixed
    if len(fixed) > 1:
        return editor.op(ops.rope, x, cos, sin, layout="halves")
    head = editor.op(ops.reshape, x, shape=(1, *fixed))
    return editor.op(ops.reshape, editor.op(ops.rope, head, cos, sin, layout="halves"), shape=fixed)
