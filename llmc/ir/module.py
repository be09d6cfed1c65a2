"""A program as a torch module: the reference semantics over one sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from llmc.ir.program import Program


@dataclass(frozen=True)
class SequenceContext:
    """What attention and row selection see: absolute positions int64 `[T]`, `[S]` and row indices int64 `[R]` or None (all)."""

    q_position: Tensor
    k_position: Tensor
    out_rows: Tensor | None = None


class ProgramModule(nn.Module):
    """`forward(input_ids [T], position [T], **activations [T, ...]) -> {output name: [R, ...]}`.

    Weights are parameters in `values`, by their names in the program with "/" for "." (`values.layers/0/norm/weight`), which
    torch does not allow in the name of a parameter. Unless trainable, none asks for a gradient, and they may share memory with
    the program and the user's module: do not write to them. If trainable, they are copies, and those of floats ask for a
    gradient, tables that were buffers of the original (such as the frequencies of rotary positions) too, since a program does
    not tell them from parameters: freeze with `requires_grad_(False)` what must stay.
    """

    def __init__(self, program: Program, trainable: bool = False) -> None:
        super().__init__()
        self.program = program
        self.values = nn.ParameterDict()
        self._keys = {name: name.replace(".", "/") for name in program.weights}
        for name, weight in program.weights.items():
            value = weight.evaluate()
            learns = trainable and value.is_floating_point()
            self.values[self._keys[name]] = nn.Parameter(value.clone() if trainable else value, requires_grad=learns)

    def forward(
        self,
        input_ids: Tensor | None = None,
        position: Tensor | None = None,
        out_rows: Tensor | None = None,
        **activations: Tensor,
    ) -> dict[str, Tensor]:
        return run(self.program, lambda name: self.values[self._keys[name]], input_ids, position, out_rows, **activations)


class _Values(dict[Node, Any]):
    """Values of nodes; a weight is asked for whenever an op reads it."""

    def __init__(self, weight: Callable[[str], Tensor]) -> None:
        super().__init__()
        self.weight = weight

    def __missing__(self, node: Node) -> Tensor:
        return self.weight(str(node.target))


def run(
    program: Program,
    weight: Callable[[str], Tensor],
    input_ids: Tensor | None = None,
    position: Tensor | None = None,
    out_rows: Tensor | None = None,
    **activations: Tensor,
) -> dict[str, Tensor]:
    """What a program gives for one sequence, as `ProgramModule` does; `weight` is asked for whatever an op reads."""
    given = {"input_ids": input_ids, **activations}
    if position is None:
        position = torch.arange(next(len(value) for value in given.values() if value is not None))
    given["position"] = position
    context = SequenceContext(position, position, out_rows)
    values = _Values(weight)
    last = {read: node for node in program.graph.nodes for read in node.all_input_nodes}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = given[node.target]
        elif node.op == "call_function":
            values[node] = run_node(node, values, context)
            for read in node.all_input_nodes:  # what is only a weight in another shape would add up to the whole model
                if last[read] is node:
                    values.pop(read, None)
    return {name: values[node] for name, node in zip(program.outputs, program.results, strict=True)}


def run_node(node: Node, values: dict[Node, Any], context: Any) -> Any:
    """The reference semantics of one node."""
    operands = [values[arg] if isinstance(arg, Node) else arg for arg in node.args]
    extra = {"context": context} if node.target.contextual else {}  # type: ignore[union-attr]
    return node.target.reference(*operands, **node.kwargs, **extra)  # type: ignore[union-attr]
