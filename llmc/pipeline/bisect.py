"""Which pass is to blame: the first whose program gives other numbers than the captured one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from llmc.ir.module import SequenceContext, run_node
from llmc.ir.program import Program, origin_of
from llmc.pipeline.instrument import example_ids, output_error, outputs_of, relative_error
from llmc.pipeline.pipeline import Pipeline
from llmc.plugins.registry import Registry


@dataclass(frozen=True)
class Bisection:
    """`guilty` is the key of the first pass after which the error exceeds the tolerance, or None.

    errors: relative error of the outputs after each prefix of the pipeline that was evaluated, by the key of its last pass, in
    the order of evaluation. node, origin: the first node after the guilty pass whose values differ from those it had before, or
    from those of the node that it replaced, where there is one.
    """

    guilty: str | None
    errors: dict[str, float]
    node: str | None = None
    origin: str | None = None

    @property
    def message(self) -> str:
        """The finding in a sentence, and what was evaluated."""
        tried = ", ".join(f"{key} {error:.2e}" for key, error in self.errors.items()) or "nothing"
        if self.guilty is None:
            return f"no pass is to blame (relative error after {tried})"
        where = f", first at node '{self.node}' of {self.origin}" if self.node else ""
        return f"pass '{self.guilty}' changes the outputs{where} (relative error after {tried})"


def bisect(program: Program, pipeline: Pipeline, registry: Registry, tolerance: float) -> Bisection:
    """Search the prefixes of a pipeline by halves. An error, once above the tolerance, is taken to stay there.

    Each prefix goes on from the longest one found good, so no pass runs twice on a program that is known to be right.
    """
    ids = example_ids(program)
    reference = outputs_of(program, ids)
    errors: dict[str, float] = {}
    good, good_program = 0, program
    wrong, wrong_program = len(pipeline) + 1, program
    while wrong - good > 1:
        # The whole pipeline comes first: most often nothing is wrong.
        middle = (good + wrong) // 2 if errors else len(pipeline)
        candidate = pipeline[good:middle].run(good_program, registry).program
        error = errors[pipeline[middle - 1].key] = output_error(outputs_of(candidate, ids), reference)
        if error <= tolerance:
            good, good_program = middle, candidate
        else:
            wrong, wrong_program = middle, candidate
    if wrong > len(pipeline):
        return Bisection(None, errors)
    node, origin = first_difference(good_program, wrong_program, ids, tolerance)
    return Bisection(pipeline[wrong - 1].key, errors, node, origin)


def first_difference(before: Program, after: Program, ids: Tensor, tolerance: float) -> tuple[str | None, str | None]:
    """Name and origin of the first node whose values differ from those of the same node before, or of the one it replaced."""
    known = {node.meta.get("identity"): value for node, value in _values(before, ids)}
    for node, value in _values(after, ids):
        other = known.get(node.meta.get("identity", node))
        if other is None or other.shape != value.shape or not other.is_floating_point():
            continue
        if not relative_error(value, other) <= tolerance:
            return node.name, str(origin_of(node))
    return None, None


def _values(program: Program, ids: Tensor) -> list[tuple[Node, Tensor]]:
    position = torch.arange(len(ids))
    context = SequenceContext(position, position)
    given = {"input_ids": ids, "position": position}
    values: dict[Node, Tensor] = {}
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "placeholder":
                values[node] = given[node.target]
            elif node.op == "get_attr":
                values[node] = program.weight(node).evaluate()
            elif node.op == "call_function":
                values[node] = run_node(node, values, context)
    return [(node, values[node]) for node in program.nodes]
