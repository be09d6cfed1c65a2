"""Building and changing graphs of the dialect; types and origins are kept by the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch.fx import Graph, Node

from llmc.errors import VerificationError
from llmc.ir.formats import Dense
from llmc.ir.op import Op
from llmc.ir.program import Program, operand_types, origin_of, type_of
from llmc.ir.types import INPUTS, Origin, TensorType
from llmc.ir.weights import Weight


class Editor:
    """A graph under construction. `finish()` gives the program, without dead nodes and verified, and ends the editor.

    Nodes of other graphs, those of the program that is edited among them, are refused: `copy_of` gives the editor's own.
    """

    def __init__(self, name: str = "") -> None:
        self.graph = Graph()
        self.weights: dict[str, Weight] = {}
        self.outputs: tuple[str, ...] = ()
        self.name = name
        self.origin = Origin()
        self._weight_nodes: dict[str, Node] = {}
        self._copies: dict[Node, Node] = {}
        self._given: dict[str, Weight] = {}
        self._made: list[Node] = []
        self._fresh: set[Node] = set()  # made here, and standing for no other node yet
        self._finished = False

    @staticmethod
    def of(program: Program, name: str = "") -> Editor:
        """An editor over a copy of a program."""
        editor = Editor(name)
        results = editor.graph.graph_copy(program.graph, editor._copies)
        editor.graph.output(results)
        editor.weights, editor.outputs, editor._given = dict(program.weights), program.outputs, dict(program.weights)
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

    def copy_of(self, node: Node) -> Node:
        """The editor's copy of a node of the program that is edited, `program.blocks.layers[0][0]` for example."""
        if node not in self._copies:
            raise VerificationError(f"'{node}' is no node of the program that is edited")
        return self._copies[node]

    def input(self, name: str, kind: TensorType | None = None) -> Node:
        """The per-token input `name`; made if it is not there. kind: its type, where the name is none of INPUTS."""
        self._check()
        last = None
        for node in self.graph.nodes:
            if node.op == "placeholder":
                if node.target == name:
                    return node
                last = node
        kind = INPUTS.get(name) if kind is None else kind
        if kind is None:
            raise VerificationError(f"the input '{name}' needs a type; those known by name are {', '.join(INPUTS)}")
        first = next(iter(self.graph.nodes), None)
        place = self.graph.inserting_after(last) if last else self.graph.inserting_before(first)
        with place:
            node = self.graph.placeholder(name)
        node.meta.update(type=kind, origin=Origin(name))
        return node

    def weight(self, weight: Weight, name: str) -> Node:
        """A node for a weight; `name` is kept if it is free, else made unique."""
        unique, count = name, 1
        while unique in self.weights:
            unique, count = f"{name}.{count}", count + 1
        self.weights[unique] = weight
        return self.named_weight(unique)

    def set_weight(self, name: str, weight: Weight) -> None:
        """Put another weight under a name that the program has; `retype` once all are set if shapes or dtypes changed."""
        self._check()
        self._known(name)
        self.weights[name] = weight

    def named_weight(self, name: str) -> Node:
        """The node of a weight that the program has."""
        self._check()
        if name not in self._weight_nodes:
            kind = self._known(name).type
            first = next((n for n in self.graph.nodes if n.op not in ("placeholder", "get_attr")), None)
            with self.graph.inserting_before(first) if first is not None else self.graph.inserting_before():
                node = self.graph.create_node("get_attr", name, name=f"weight_{name}")  # no op can have such a name
            node.meta.update(type=kind, origin=Origin(name))
            self._weight_nodes[name] = node
        return self._weight_nodes[name]

    def op(self, op: Op, *operands: Any, **attributes: Any) -> Node:
        """A node for `op`, at the point of insertion, with its type inferred.

        Raises VerificationError if the operands break the rule of the op.
        """
        return self.named_op(None, op, *operands, **attributes)

    def named_op(self, name: str | None, op: Op, *operands: Any, **attributes: Any) -> Node:
        """As `op`, with a name, which is made unique if it is not free."""
        self._check(*operands)
        operands = operands[: max((i + 1 for i, o in enumerate(operands) if o is not None), default=0)]
        attributes = {key: tuple(value) if isinstance(value, list) else value for key, value in attributes.items()}
        types = [type_of(o) if isinstance(o, Node) else o for o in operands]
        result = op.infer(types, attributes)
        node = self.graph.create_node("call_function", op, operands, attributes, name)  # type: ignore[arg-type]
        origin = self.origin.through(self.name) if self.name else self.origin
        node.meta.update(type=result, origin=origin, identity=object())
        self._made.append(node)
        self._fresh.add(node)
        return node

    def before(self, node: Node, origin: Origin | None = None) -> AbstractContextManager[None]:
        """New nodes stand before `node` and share its origin, or have the given one."""
        self._check(node)
        return self._at(self.graph.inserting_before(node), origin or origin_of(node))

    def after(self, node: Node, origin: Origin | None = None) -> AbstractContextManager[None]:
        """New nodes stand after `node` (after all inputs and weights, if it is one) and share its origin."""
        self._check(node)
        origin = origin or origin_of(node)
        while node.op != "call_function" and node.next.op in ("placeholder", "get_attr"):
            node = node.next
        return self._at(self.graph.inserting_before(node.next), origin)  # one after another in the order they are made

    @contextmanager
    def _at(self, place: AbstractContextManager[Any], origin: Origin) -> Iterator[None]:
        previous, self.origin = self.origin, origin
        try:
            with place:
                yield
        finally:
            self.origin = previous

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """If the code within raises VerificationError, the nodes it made are removed. What it replaced stays replaced."""
        start = len(self._made)
        try:
            yield
        except VerificationError:
            made, there = self._made[start:], set(self.graph.nodes)
            del self._made[start:]
            for node in reversed(made):
                if node in there and not node.users:
                    self.graph.erase_node(node)
            raise

    def replace(self, old: Node, new: Node) -> None:
        """Let the users of `old` read `new`, but for those that `new` itself is computed from.

        Raises VerificationError if the types differ.
        """
        self._check(old, new)
        if type_of(old) != type_of(new):
            raise VerificationError(f"{old} {type_of(old)} cannot become {new} {type_of(new)}")
        inner = _computing(new, old)
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user not in inner)
        if new in self._fresh and "identity" in old.meta:
            self._fresh.discard(new)
            new.meta["identity"] = old.meta["identity"]  # bisection compares it with what it stands for

    def retype(self) -> None:
        """Infer all types again, after a weight or an operand was changed for one of another type."""
        self._check()
        for node in self.graph.nodes:
            if node.op == "get_attr":
                node.meta["type"] = self._known(str(node.target)).type
            elif node.op == "call_function":
                try:
                    node.meta["type"] = node.target.infer(operand_types(node), node.kwargs)  # type: ignore[union-attr]
                except VerificationError as error:
                    raise VerificationError(f"node '{node.name}' of {origin_of(node)}: {error}") from error

    def finish(self) -> Program:
        """The program, without what no output needs. Raises VerificationError if it breaks a rule."""
        self._check()
        for node in reversed(self.graph.nodes):
            if not node.users and node.op in ("call_function", "get_attr"):
                self.graph.erase_node(node)
        for node in list(self.graph.nodes):
            if node.op == "placeholder" and not node.users and node.target != "input_ids":
                self.graph.erase_node(node)
        used = [str(node.target) for node in self.graph.nodes if node.op == "get_attr"]
        for name in used:
            self._check_format(name)
        program = Program(self.graph, {name: self.weights[name] for name in used}, self.outputs)
        program.verify()
        self._finished = True
        return program

    def _check_format(self, name: str) -> None:
        """A pass that runs late must not undo what was quantized without saying so."""
        given = self._given.get(name)
        if given is not None and not isinstance(given.format, Dense) and isinstance(self._known(name).format, Dense):
            raise VerificationError(
                f"weight '{name}' is {given.format} and would be {self.weights[name].format} again; let this pass run before "
                "the one that quantizes, with `before = {\"quantize\"}`, or give the new weight a name of its own"
            )

    def _known(self, name: str) -> Weight:
        if name not in self.weights:
            raise VerificationError(f"there is no weight '{name}'")
        return self.weights[name]

    def _check(self, *nodes: Any) -> None:
        if self._finished:
            raise VerificationError("the editor is finished; edit the program that it gave")
        for node in nodes:
            if isinstance(node, Node) and node.graph is not self.graph:
                raise VerificationError(f"'{node}' belongs to another graph; `editor.copy_of(node)` is the one to use")


def _computing(new: Node, old: Node) -> set[Node]:
    """The nodes after `old` that `new` is computed from, itself included."""
    found: set[Node] = set()
    todo = [new]
    while todo:
        node = todo.pop()
        if node not in found and old < node:
            found.add(node)
            todo += node.all_input_nodes
    return found
