"""Finding the pass to blame."""

import pytest
import torch

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.pattern import ANY, SCALAR
from llmc.ir.rewrite import Rule
from llmc.ir.weights import Stored
from llmc.pipeline.base import Pass
from llmc.pipeline.bisect import bisect
from llmc.pipeline.pipeline import Pipeline

TOLERANCE = 1e-5


def idle(name):
    """A pass that does nothing."""
    return type(name, (Pass,), {"name": name, "run": lambda self, program, ctx: program})


@pytest.mark.parametrize("place", range(6))
def test_bisect_finds_the_guilty_pass_wherever_it_stands(registry, program, place):
    specs = [idle(f"idle-{i}") for i in range(5)]
    specs.insert(place, "damage")
    found = bisect(program, Pipeline.of(specs, [], registry), registry, TOLERANCE)
    assert found.guilty == "damage"
    assert len(found.errors) <= 4 and next(iter(found.errors)) == ("damage" if place == 5 else "idle-4")
    assert all((error > TOLERANCE) == (key == "damage" or int(key[-1]) >= place) for key, error in found.errors.items())


def test_bisect_names_the_first_node_that_differs_and_its_origin(registry, program):
    found = bisect(program, Pipeline.of(["expand-silu", "damage"], [], registry), registry, TOLERANCE)
    assert found.node == "linear_1" and found.origin == "layer"
    assert found.message.startswith("pass 'damage' changes the outputs, first at node 'linear_1' of layer (")


def test_bisect_names_a_new_node_that_differs_from_what_it_replaced(registry, program):
    found = bisect(program, Pipeline.of(["scale"], [], registry), registry, tolerance=0.01)
    assert found.guilty == "scale" and found.node == "silu_1" and found.origin == "layer (scale)"


def test_bisect_is_not_misled_by_names_that_are_used_again(registry):
    class Two(Pass):
        """One right rewrite, whose node takes a name that became free, and a wrong one."""

        name = "two"

        def run(self, program, ctx):
            halved = Rule(ops.mul(ANY.x, SCALAR.s), lambda e, m: e.op(ops.div, m["x"], 1 / m["s"]))
            turned = Rule(ops.neg(ANY.x), lambda e, m: e.op(ops.mul, m["x"], -1.0))
            wrong = Rule(ops.tanh(ANY.x), lambda e, m: e.op(ops.sin, m["x"]))
            for rule in (halved, turned, wrong):
                program = program.rewrite(rule, ctx)
            return program

    editor = Editor()
    x = editor.op(ops.embedding, editor.input("input_ids"), editor.weight(Stored(torch.randn(9, 4)), "table"))
    x = editor.op(ops.neg, editor.op(ops.cos, editor.op(ops.mul, x, 2.0)))
    editor.outputs = ("out",)
    editor.graph.output((editor.op(ops.tanh, x),))
    found = bisect(editor.finish(), Pipeline.of([Two], [], registry), registry, TOLERANCE)
    assert (found.guilty, found.node) == ("two", "sin")


def test_bisect_blames_nobody_when_the_numbers_agree(registry, program):
    found = bisect(program, Pipeline.of(["expand-silu", "refuse"], [], registry), registry, TOLERANCE)
    assert found.guilty is None and list(found.errors) == ["refuse"]
    assert found.message.startswith("no pass is to blame")


def test_bisect_of_an_empty_pipeline_evaluates_nothing(registry, program):
    found = bisect(program, Pipeline.of([], [], registry), registry, TOLERANCE)
    assert found.guilty is None and not found.errors
