"""A small causal program and passes over it, shared by the tests of the pipeline."""

import pytest
import torch

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.pattern import ANY, WEIGHT
from llmc.ir.program import Program
from llmc.ir.rewrite import Rule
from llmc.ir.score import CAUSAL, SCORE
from llmc.ir.types import Origin
from llmc.ir.weights import Stored
from llmc.pipeline.base import Pass
from llmc.plugins.registry import Entry, Registry

WIDTH, VOCAB = 8, 11


def make_program() -> Program:
    """Embedding, attention with a residual, a SiLU layer, a head."""
    torch.manual_seed(0)
    editor = Editor()
    ids = editor.input("input_ids")
    shapes = {"embed": (VOCAB, WIDTH), "qkv": (3 * WIDTH, WIDTH), "up": (WIDTH, WIDTH), "norm": (WIDTH,)}
    w = {name: editor.weight(Stored(torch.randn(shape)), name) for name, shape in shapes.items()}
    x = editor.op(ops.embedding, ids, w["embed"])
    editor.origin = Origin("layer", "model.py:7")
    qkv = editor.op(ops.linear, editor.op(ops.rms_norm, x, w["norm"], eps=1e-5), w["qkv"])
    parts = [editor.op(ops.slice_, qkv, dim=1, start=a, stop=a + WIDTH) for a in (0, WIDTH, 2 * WIDTH)]
    q, k, v = (editor.op(ops.reshape, part, shape=(2, WIDTH // 2)) for part in parts)
    a = editor.op(ops.attention, q, k, v, scale=0.5, score=SCORE, admits=CAUSAL)
    x = editor.op(ops.add, x, editor.op(ops.reshape, a, shape=(WIDTH,)))
    x = editor.op(ops.silu, editor.op(ops.linear, x, w["up"]))
    logits = editor.op(ops.linear, x, w["embed"])
    editor.outputs = ("logits",)
    editor.graph.output((logits,))
    return editor.finish()


class ExpandSilu(Pass):
    """silu(x) becomes x * sigmoid(x): other nodes, the same numbers."""

    name = "expand-silu"

    def run(self, program, ctx):
        rule = Rule(ops.silu(ANY.x), lambda editor, m: editor.op(ops.mul, m["x"], editor.op(ops.sigmoid, m["x"])))
        return program.rewrite(rule, ctx)


class Scale(Pass):
    """Multiply the weight of the SiLU layer by a factor: the same nodes, other numbers."""

    name = "scale"

    class Config(Pass.Config):
        """factor: what the weight is multiplied by."""

        factor: float = 2.0

    def run(self, program, ctx):
        def build(editor, m):
            weight = Stored(editor.weights[m["w"].target].evaluate() * self.config.factor)
            return editor.op(ops.silu, editor.op(ops.linear, m["x"], editor.weight(weight, "scaled")))

        ctx.note(f"by {self.config.factor}")
        return program.rewrite(Rule(ops.silu(ops.linear(ANY.x, WEIGHT.w)), build), ctx)


class Damage(Pass):
    """Replace the tensor of the weight `up` in place of its nodes."""

    name = "damage"

    def run(self, program, ctx):
        ctx.matched(Origin("layer"))
        editor = program.edit(self.name)
        editor.weights["up"] = Stored(editor.weights["up"].evaluate() * 3)
        return editor.finish()


class Refuse(Pass):
    """Find every SiLU and leave it alone."""

    name = "refuse"

    def run(self, program, ctx):
        return program.rewrite(Rule(ops.silu(ANY.x), lambda editor, m: m.root, check=lambda m: "it is fine as it is"), ctx)


@pytest.fixture
def program() -> Program:
    return make_program()


@pytest.fixture
def registry() -> Registry:
    """The passes of this file and two recipes, and nothing that is installed."""
    made = Registry([])
    for item in (ExpandSilu, Scale, Damage, Refuse):
        made.register("passes", Entry(item.name, item, "tests", "1"))
    made.register("recipes", Entry("fuse", ["expand-silu"], "tests", "1"))
    made.register("recipes", Entry("tripled", ["expand-silu", {"name": "scale", "factor": 3.0}], "tests", "1"))
    return made
