"""A program: a graph of the dialect, the weights it names, and the names of its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch.fx import Graph, Node

from llmc.ir.types import SEQUENCES, Origin, TensorType
from llmc.ir.weights import Weight

if TYPE_CHECKING:
    from llmc.ir.blocks import Blocks
    from llmc.ir.edit import Editor
    from llmc.ir.module import ProgramModule
    from llmc.ir.rewrite import Report, Rule


@dataclass(frozen=True, eq=False)
class Program:
    """What a backend lowers: one function from per-token inputs to the outputs of the rows asked for.

    `graph` holds placeholders (`input_ids [T]`, `position [T]`, int64; activations `[T, ...]` of a segment), `get_attr` nodes
    that name weights, `call_function` nodes whose target is an `Op`, and one output, a tuple. A node's `meta` has its "type"
    (TensorType) and "origin" (Origin).
    A node that was made by an `Editor` has an "identity" besides, which it shares with its copies and with what replaces it.
    Users never change a program: `rewrite` and `edit` give a new one that shares the weights.
    """

    graph: Graph
    weights: Mapping[str, Weight]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self  # nobody changes it

    @property
    def nodes(self) -> list[Node]:
        """The nodes that compute, in order."""
        return [node for node in self.graph.nodes if node.op == "call_function"]

    @property
    def inputs(self) -> dict[str, TensorType]:
        """The per-token inputs, in order."""
        return {str(node.target): type_of(node) for node in self.graph.nodes if node.op == "placeholder"}

    @property
    def results(self) -> list[Node]:
        """The node of each output."""
        return list(self.graph.output_node().args[0])  # type: ignore[arg-type]

    def find(self, op: str) -> list[Node]:
        """The nodes of one op, by its name."""
        return [node for node in self.nodes if node.target.name == op]  # type: ignore[union-attr]

    @property
    def attentions(self) -> list[Node]:
        """The nodes that relate positions, fused with others or not; their first operands are q, k and v."""
        from llmc.ir.ops import ATTENTIONS

        return [node for node in self.nodes if node.target.name in ATTENTIONS]  # type: ignore[union-attr]

    def weight(self, node: Node) -> Weight:
        """The weight that a `get_attr` node stands for."""
        return self.weights[str(node.target)]

    @cached_property
    def whole_sequences(self) -> bool:
        """Whether a step must be given whole sequences: an attention reads later positions, or a value is of a whole sequence.

        Such a program keeps no cache: each run of a batch starts at position 0 and is all there is of its sequence.
        """
        return any(type_of(node).rows == SEQUENCES or node.kwargs.get("causal") is False for node in self.nodes)

    def weight_bytes(self) -> int:
        """Size of all weights as stored; one that several nodes read counts once."""
        return sum(weight.bytes for weight in self.weights.values())

    def flops_per_token(self) -> int:
        """Floating-point operations for one token, its output row included, at a context of one position."""
        from llmc.ir.cost import node_cost

        return sum(node_cost(self, node).flops for node in self.nodes)

    @cached_property
    def blocks(self) -> Blocks | None:
        """The layers that repeat, or None (`llmc.ir.blocks`)."""
        from llmc.ir.blocks import find_blocks

        return find_blocks(self)

    def rewrite(self, rule: Rule, report: Report | None = None) -> Program:
        """Apply a rule to all places where it matches, without overlaps, in one copy of the graph."""
        from llmc.ir.rewrite import rewrite

        return rewrite(self, rule, report)

    def edit(self, name: str = "") -> Editor:
        """A copy to change freely; `name` (of the pass) is added to the origins of new nodes. End with `finish()`."""
        from llmc.ir.edit import Editor

        return Editor.of(self, name)

    def as_module(self, trainable: bool = False) -> ProgramModule:
        """The program as a torch module over one sequence; if trainable, with copies of the weights that ask for gradients."""
        from llmc.ir.module import ProgramModule

        return ProgramModule(self, trainable)

    def verify(self) -> None:
        """Raise VerificationError unless every rule of the dialect holds."""
        from llmc.ir.verify import verify

        verify(self)

    def save(self, folder: Path | str) -> None:
        """Write `program.json` and `weights.safetensors`."""
        from llmc.ir.serialize import save

        save(self, Path(folder))

    @staticmethod
    def load(folder: Path | str) -> Program:
        """Read what `save` wrote; weights stay on disk until used. Raises ArtifactError if it is damaged."""
        from llmc.ir.serialize import load

        return load(Path(folder))

    def __str__(self) -> str:
        from llmc.ir.printer import print_program

        return print_program(self)


def type_of(node: Any) -> TensorType:
    """Type of a node's value."""
    return node.meta["type"]


def origin_of(node: Node) -> Origin:
    """Where a node comes from."""
    return node.meta.get("origin", Origin())


def operand_types(node: Node) -> list[Any]:
    """What `Op.infer` is given: the types of node operands, numbers and None as they are."""
    return [type_of(arg) if isinstance(arg, Node) else arg for arg in node.args]
