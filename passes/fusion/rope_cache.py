"""Turn queries and keys on their way into the attention and its cache."""

from __future__ import annotations

from torch.fx import Node

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.pattern import ANY, Match, Pattern
from llmc.ir.program import Program
from llmc.ir.rewrite import Rule
from llmc.pipeline.base import Pass, PassContext

LAYOUTS = ("halves", "pairs")


class FuseRopeCache(Pass):
    """Rotary positions applied where keys are written to the cache and queries are read.

    Before:  attention(rope(q, cos, sin), rope(k, cos, sin), v)
    After:   rope_attention(q, k, v, cos, sin)
    """

    name = "fuse-rope-cache"
    provides = frozenset({"fused"})
    after = frozenset({"raise-rope", "fuse-qkv", "quantize"})

    def run(self, program: Program, ctx: PassContext) -> Program:
        for layout in LAYOUTS:
            for sinks in ((), (ANY.sinks,)):
                program = program.rewrite(Rule(turned(layout, *sinks), fuse, read_once), ctx)
        return program


def turned(layout: str, *sinks: Pattern) -> Pattern:
    """An attention whose queries and keys are turned by the same angles."""
    q, k = (ops.rope(x, ANY.cos, ANY.sin, layout=layout) for x in (ANY.q, ANY.k))
    return ops.attention(q, k, ANY.v, *sinks)


def read_once(match: Match) -> str | None:
    """Nothing else may read the turned queries and keys, nor share the cache."""
    for operand, what in zip(match.root.args[:2], ("queries", "keys"), strict=True):
        if list(operand.users) != [match.root]:  # type: ignore[union-attr]
            return f"its turned {what} are read elsewhere too"
    return None


def fuse(editor: Editor, match: Match) -> Node:
    """The attention that turns them itself."""
    (layout,) = {node.kwargs["layout"] for node in match.nodes if node.target is ops.rope}
    operands = (match["q"], match["k"], match["v"], match["cos"], match["sin"], match.get("sinks"))
    return editor.op(ops.rope_attention, *operands, layout=layout, **match.root.kwargs)
