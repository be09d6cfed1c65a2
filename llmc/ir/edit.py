"""Building and changing graphs of the dialect; types and origins are kept by the way."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.fx import Graph, Node

from llmc.errors import VerificationError
from llmc.ir.op import Op
from llmc.ir.program import Program, operand_types, origin_of, type_of
from llmc.ir.types import TOKENS, Origin, TensorType
from llmc.ir.weights import Weight

if TYPE_CHECKING:
    from collections.abc import Iterator


class Editor:
    """A graph under construction. `finish()` gives the program, without dead nodes and verified."""

    def __init__(self, name: str = "") -> None:
        self.graph = Graph()
        self.weights: dict[str, Weight] = {}
        self.outputs: tuple[str, ...] = ()
        self.name = name
        self.origin = Origin()
        self._weight_nodes: dict[str, Node] = {}

    @staticmethod
    def of(program: Program, name: str = "") -> Editor:
        """An editor over a copy of a program."""
        editor = Editor(name)
        copies: dict[Node, Node] = {}
        results = editor.graph.graph_copy(program.graph, copies)
        editor.graph.output(results)
        editor.weights, editor.outputs = dict(program.weights), program.outputs
        editor._weight_nodes = {str(n.target): n for n in editor.graph.nodes if n.op == "get_attr"}
        return editor

    @property
    def nodes(self) -> list[Node]:
        """The nodes that compute, in order."""
        return [node for node in self.graph.nodes if node.op == "call_function"]

    @property
    def results(self) -> list[Node]:
        """The node of each output."""
        return list(self.graph.output_node().args[0])  # type: ignore[arg-type]

    def input(self, name: str) -> Node:
        """The per-token input `name`, int64 `[T]`; made if it is not there."""
        for node in self.graph.nodes:
            if node.op == "placeholder" and node.target == name:
                return node
        first = next(iter(self.graph.nodes), None)
        with self.graph.inserting_before(first) if first is not None else self.graph.inserting_before():
            node = self.graph.placeholder(name)
        node.meta.update(type=TensorType("int64", (TOKENS,)), origin=Origin(name))
        return node

    def weight(self, weight: Weight, name: str) -> Node:
        """A node for a weight; `name` is kept if it is free, else made unique."""
        unique, count = name, 1
        while unique in self.weights:
            unique, count = f"{name}.{count}", count + 1
        self.weights[unique] = weight
        return self.named_weight(unique)

    def named_weight(self, name: str) -> Node:
        """The node of a weight that the program has."""
        if name not in self._weight_nodes:
            first = next((n for n in self.graph.nodes if n.op not in ("placeholder", "get_attr")), None)
            with self.graph.inserting_before(first) if first is not None else self.graph.inserting_before():
                node = self.graph.create_node("get_attr", name)
            node.meta.update(type=self.weights[name].type, origin=Origin(name))
            self._weight_nodes[name] = node
        return self._weight_nodes[name]

    def op(self, op: Op, *operands: Any, **attributes: Any) -> Node:
        """A node for `op`, at the point of insertion, with its type inferred.

        Raises VerificationError if the operands break the rule of the op.
        """
        operands = operands[: max((i + 1 for i, o in enumerate(operands) if o is not None), default=0)]
        types = [type_of(o) if isinstance(o, Node) else o for o in operands]
        result = op.infer(types, attributes)
        node = self.graph.call_function(op, operands, attributes)  # type: ignore[arg-type]
        node.meta.update(type=result, origin=self.origin.through(self.name) if self.name else self.origin)
        return node

    @contextmanager
    def before(self, node: Node, origin: Origin | None = None) -> Iterator[None]:
        """New nodes stand before `node` and share its origin, or have the given one."""
        previous, self.origin = self.origin, origin or origin_of(node)
        with self.graph.inserting_before(node):
            yield
        self.origin = previous

    @contextmanager
    def after(self, node: Node, origin: Origin | None = None) -> Iterator[None]:
        """New nodes stand after `node` (after all inputs and weights, if it is one) and share its origin."""
        while node.op != "call_function" and node.next.op in ("placeholder", "get_attr"):
            node = node.next
        previous, self.origin = self.origin, origin or origin_of(node)
        with self.graph.inserting_after(node):
            yield
        self.origin = previous

    def replace(self, old: Node, new: Node) -> None:
        """Let all users of `old` read `new`. Raises VerificationError if the types differ."""
        if type_of(old) != type_of(new):
            raise VerificationError(f"{self.name or 'edit'}: {old} {type_of(old)} cannot become {new} {type_of(new)}")
        old.replace_all_uses_with(new)

    def retype(self) -> None:
        """Infer all types again, after an operand was changed for one of another type."""
        for node in self.nodes:
            node.meta["type"] = node.target.infer(operand_types(node), node.kwargs)  # type: ignore[union-attr]

    def finish(self) -> Program:
        """The program, without what no output needs. Raises VerificationError if it breaks a rule."""
        for node in reversed(self.graph.nodes):
            if not node.users and node.op in ("call_function", "get_attr"):
                self.graph.erase_node(node)
        for node in list(self.graph.nodes):
            if node.op == "placeholder" and not node.users and node.target != "input_ids":
                self.graph.erase_node(node)
        used = [str(node.target) for node in self.graph.nodes if node.op == "get_attr"]
        program = Program(self.graph, {name: self.weights[name] for name in used}, self.outputs)
        program.verify()
        return program
