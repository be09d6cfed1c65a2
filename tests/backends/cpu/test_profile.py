"""Models with time stamps: the same numbers, a span for every statement, and times that fit into the step's."""

import time

import numpy as np
import pytest

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.executable import CpuExecutable
from llmc.backends.cpu.generate import Generator
from llmc.backends.cpu.profile import code_of
from llmc.backends.cpu.source import print_source
from llmc.conformance.forms import CACHE_BLOCKS, Runner, prefill
from llmc.conformance.models import program
from llmc.conformance.programs import every_output
from llmc.errors import UnsupportedError

IDS = [(7 * i) % 61 for i in range(70)]


@pytest.fixture(scope="module", params=["fuse", "int8"])
def sides(request):
    """A whole model with layers in a loop: its program, the model, and the model with time stamps."""
    made = program("library-rope", request.param)
    executable = CpuBackend().lower(made)
    return made, executable, CpuBackend().profiled(made, executable)


def test_time_stamps_change_no_number_and_no_weight_is_packed_again(sides):
    _, plain, stamped = sides
    assert stamped.weights is plain.weights
    for threads in (1, 2):
        contexts = [side.context(CACHE_BLOCKS, threads) for side in (plain, stamped)]
        assert np.array_equal(*(prefill(context, IDS) for context in contexts))


def test_every_statement_is_a_span_of_each_layer(sides):
    made, _, stamped = sides
    generator = Generator(made)
    sections = (generator.prologue, 1), (generator.body, generator.layers), (generator.epilogue, 1)
    assert generator.layers > 1
    expected = [
        (statement.nodes[layer if len(statement.nodes) > 1 else 0].name, code_of(statement.text))
        for section, layers in sections
        for statement in section
        for layer in range(layers)
    ]
    assert [(span.node, span.code) for span in stamped.spans if not span.waits] == expected
    waits = generator.many.waits | generator.few.waits
    barriers = sum(layers * sum(statement in waits for statement in section) for section, layers in sections)
    edges = generator.layers + 1  # before each layer, and after the last, if that statement does not wait anyway
    assert barriers <= sum(span.waits for span in stamped.spans) <= barriers + edges


def test_work_of_a_node_is_done_in_one_span(sides):
    made, _, stamped = sides
    main = [span.node for span in stamped.spans if span.main]
    assert len(main) == len(set(main))
    computing = ("linear", "attention", "rms_norm", "embedding", "rope")
    assert {node.name for node in made.nodes if node.target.name in computing} <= set(main)
    codes = {span.node: span.code for span in stamped.spans if span.main}
    assert all(codes[node.name].startswith("linear_") for node in made.find("linear"))
    assert all(codes[node.name] == "attention" for node in made.find("attention"))


@pytest.mark.parametrize("threads", [1, 2])
def test_times_are_those_of_the_last_step_and_shorter_than_it(sides, threads):
    context = sides[2].context(CACHE_BLOCKS, threads)
    runner = Runner(context)
    sequence = runner.sequences.create()
    runner.step([(sequence, IDS)])
    assert context.times.shape == (threads, len(sides[2].spans))
    for token in IDS[:5]:
        batch = runner.sequences.batch([(sequence, [token])], ["last"])
        began = time.perf_counter()
        context.step(batch)
        taken = time.perf_counter() - began
        assert (context.times >= 0).all() and 0 < context.times.sum(1).max() < taken
        working = np.array([not span.waits for span in sides[2].spans])
        assert context.times[:, working].sum() > 0


def test_layers_that_wait_wait_for_what_came_before(sides):
    """The first wait of a layer is for the end of the layer before, of the first for what stands before the loop."""
    made, _, stamped = sides
    layer = {node.name: number for number, nodes in enumerate(made.blocks.layers) for node in nodes}
    count = len(made.blocks.layers)
    waits = [span for span in stamped.spans if span.waits]
    first = next(i for i in range(len(waits) - count) if layer.get(waits[i + 1].node) == 0 and layer.get(waits[i].node) is None)
    assert [layer.get(span.node) for span in waits[first : first + count]] == [None, *range(count - 1)]


def test_code_without_time_stamps_is_as_it_was(sides):
    made, plain, stamped = sides
    assert "stamp" not in plain.sources()["model.cpp"]
    assert stamped.sources() == plain.sources()
    assert print_source(Generator(made), CpuBackend().target) == plain.sources()["model.cpp"]


def test_program_without_layers_is_profiled_too():
    made = every_output()
    stamped = CpuBackend().profiled(made, CpuBackend().lower(made))
    context = stamped.context(CACHE_BLOCKS, 1)
    prefill(context, [3, 1, 2])
    assert context.times.sum() > 0 and {"attention", "embedding"} <= {span.code for span in stamped.spans}


def test_edited_code_is_not_profiled_as_if_it_were_not():
    made = every_output()
    plain = CpuBackend().lower(made)
    texts = {**plain.sources(), "model.cpp": plain.sources()["model.cpp"] + "// faster\n"}
    edited = CpuExecutable(plain.path, plain.weights, plain.facts, texts)
    with pytest.raises(UnsupportedError, match="edited or made by another version"):
        CpuBackend().profiled(made, edited)
