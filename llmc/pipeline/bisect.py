"""Which pass is to blame: the first whose program gives other numbers than the captured one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llmc.ir.module import SequenceContext, run_node
from llmc.ir.program import Program, origin_of
from llmc.pipeline.instrument import example_ids, outputs_of, relative_error
from llmc.pipeline.pipeline import Pipeline
from llmc.plugins.registry import Registry


@dataclass(frozen=True)
class Bisection:
    """`guilty` is the key of the first pass after which the error exceeds the tolerance, or None.

    errors: relative error of the outputs after each pass that was tried, by key. node, origin: the first node of the guilty
    pass's program whose values differ from those of the node of the same name before it, where there is one.
    """

    guilty: str | None
    errors: dict[str, float]
    node: str | None = None
    origin: str | None = None


def bisect(program: Program, pipeline: Pipeline, registry: Registry, tolerance: float) -> Bisection:
    """Search the prefixes of a pipeline by halves. An error, once above the tolerance, is taken to stay there."""
    ids = example_ids(program)
    reference = outputs_of(program, ids)
    programs: dict[int, Program] = {0: program}
    errors: dict[str, float] = {}

    def bad(length: int) -> bool:
        programs[length] = pipeline[:length].run(program, registry).program
        error = relative_error(outputs_of(programs[length], ids), reference)
        errors[pipeline[length - 1].key] = error
        return not error <= tolerance

    if not len(pipeline) or not bad(len(pipeline)):
        return Bisection(None, errors)
    good, wrong = 0, len(pipeline)
    while wrong - good > 1:
        middle = (good + wrong) // 2
        good, wrong = (good, middle) if bad(middle) else (middle, wrong)
    node, origin = first_difference(programs[good], programs[wrong], ids, tolerance)
    return Bisection(pipeline[wrong - 1].key, errors, node, origin)


def first_difference(before: Program, after: Program, ids: torch.Tensor, tolerance: float) -> tuple[str | None, str | None]:
    """Name and origin of the first node whose values differ from those of the node of the same name and type."""
    known, found = _values(before, ids), _values(after, ids)
    nodes = {node.name: node for node in after.nodes}
    for name, value in found.items():
        other = known.get(name)
        if other is None or other.shape != value.shape or not other.is_floating_point():
            continue
        if not relative_error(value, other) <= tolerance:
            return name, str(origin_of(nodes[name]))
    return None, None


def _values(program: Program, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    position = torch.arange(len(ids))
    context = SequenceContext(position, position)
    given = {"input_ids": ids, "position": position}
    values: dict = {}
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "placeholder":
                values[node] = given[node.target]
            elif node.op == "get_attr":
                values[node] = program.weight(node).evaluate()
            elif node.op == "call_function":
                values[node] = run_node(node, values, context)
    return {node.name: values[node] for node in program.nodes}
