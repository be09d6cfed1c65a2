"""Layers that repeat: what is found can be run as one body in a loop, with one place for each value."""

import pytest
import torch

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.module import SequenceContext, run_node
from llmc.ir.program import Program
from llmc.ir.weights import Stored

WIDTH, LAYERS = 8, 5
IDS = torch.arange(6)


class Layers(Editor):
    """Weights by name, made when first asked for, and the ops of small layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.emb = self.op(ops.embedding, self.input("input_ids"), self.weight(Stored(torch.randn(9, WIDTH)), "embed"))

    def named(self, name, *shape):
        if name not in self.weights:
            self.weight(Stored(torch.randn(shape) / 3), name)
        return self.named_weight(name)

    def linear(self, x, name):
        return self.op(ops.linear, x, self.named(name, WIDTH, WIDTH))

    def mixed(self, x, y):
        return self.op(ops.add, x, y)


def build(make) -> Program:
    editor = Layers()
    result = make(editor)
    editor.outputs = ("out",)
    editor.graph.output((result,))
    return editor.finish()


def plain(e):
    x = e.emb
    for i in range(LAYERS):
        x = e.mixed(x, e.op(ops.tanh, e.linear(x, f"w{i}")))
    return x


def start_is_read_by_all(e):
    x = e.emb
    for i in range(LAYERS):
        x = e.mixed(x, e.op(ops.tanh, e.linear(e.mixed(x, e.emb), f"w{i}")))
    return x


def start_is_a_factor(e):
    x = e.emb
    for i in range(LAYERS):
        x = e.op(ops.mul, e.op(ops.tanh, e.linear(x, f"w{i}")), e.emb)
    return x


def two_streams_of_one_start(e):
    a = b = e.emb
    for i in range(LAYERS):
        a = e.mixed(a, e.op(ops.tanh, e.linear(b, f"a{i}")))
        b = e.mixed(b, e.op(ops.sin, e.linear(a, f"b{i}")))
    return e.op(ops.sub, a, b)


def two_streams(e):
    a, b = e.emb, e.op(ops.sin, e.emb)
    for i in range(LAYERS):
        a = e.mixed(a, e.op(ops.tanh, e.linear(b, f"a{i}")))
        b = e.mixed(b, e.op(ops.cos, e.linear(a, f"b{i}")))
    return e.op(ops.sub, a, b)


def two_layers_back(e):
    values = [e.emb, e.op(ops.sin, e.emb)]
    for i in range(LAYERS):
        values.append(e.mixed(e.op(ops.tanh, e.linear(values[-1], f"w{i}")), values[-2]))
    return values[-1]


def tied(first, second):
    """Layers of two linears whose weights are named by functions of the layer's number."""

    def make(e):
        x = e.emb
        for i in range(LAYERS):
            x = e.mixed(x, e.op(ops.tanh, e.linear(e.op(ops.sin, e.linear(x, first(i))), second(i))))
        return x

    return make


CASES = {
    "plain": plain,
    "start-is-read-by-all": start_is_read_by_all,
    "start-is-a-factor": start_is_a_factor,
    "two-streams-of-one-start": two_streams_of_one_start,
    "two-streams": two_streams,
    "two-layers-back": two_layers_back,
    "one-weight-for-all": tied(lambda i: "w", lambda i: f"v{i}"),
    "first-layer-tied": tied(lambda i: f"w{i}", lambda i: f"v{i}" if i else "w0"),
    "middle-layer-tied": tied(lambda i: f"w{i}", lambda i: "w2" if i == 2 else f"v{i}"),
    "every-layer-tied": tied(lambda i: f"w{i}", lambda i: f"w{i}"),
    "some-layers-share": tied(lambda i: "w0" if i == 2 else f"w{i}", lambda i: f"v{i}"),
    "weight-of-the-next-layer": tied(lambda i: f"w{i}", lambda i: f"w{i + 1}"),
}


def run_in_a_loop(program: Program) -> torch.Tensor:
    """Run as generated code does: the first block's nodes for every layer, weights from a table, carried values handed on."""
    layers, carried = program.blocks.layers, program.blocks.carried
    body, context = layers[0], SequenceContext(IDS, IDS)
    inside = {node for layer in layers for node in layer}
    weights = {n: program.weight(n).evaluate() for n in program.graph.nodes if n.op == "get_attr"}
    values = {next(n for n in program.graph.nodes if n.op == "placeholder"): IDS, **weights}
    for node in program.nodes:
        if node is body[0]:
            entering = {start: values[start] for start in carried.values()}
            for layer in layers:
                for node_of_body in body:
                    table = {
                        arg: weights[layer[reader].args[slot]]
                        for arg in node_of_body.args
                        if arg in weights
                        for reader, slot in [next((j, n.args.index(arg)) for j, n in enumerate(body) if arg in n.args)]
                    }
                    values[node_of_body] = run_node(node_of_body, {**values, **table}, context)
                values.update({start: values[body[j]] for j, start in carried.items()})
            values.update({last: values[here] for here, last in zip(body, layers[-1], strict=True)})
            values.update(entering)
        if node not in inside:
            values[node] = run_node(node, values, context)
    return values[program.results[0]]


@pytest.mark.parametrize("name", CASES)
def test_blocks_run_as_a_loop_compute_what_the_program_does(name):
    program = build(CASES[name])
    with torch.no_grad():
        expected = program.as_module()(IDS)["out"]
        assert torch.allclose(run_in_a_loop(program), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("plain", LAYERS),
        ("one-weight-for-all", LAYERS),
        ("some-layers-share", LAYERS),
        ("every-layer-tied", LAYERS),
        ("first-layer-tied", LAYERS - 1),
        ("start-is-read-by-all", LAYERS - 1),
    ],
)
def test_blocks_cover_all_layers_that_have_the_same_code(name, count):
    blocks = build(CASES[name]).blocks
    assert blocks is not None and len(blocks.layers) == count
