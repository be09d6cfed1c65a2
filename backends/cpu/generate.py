"""The generator: a program, node by node, as one C++ function over a table of layers."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from torch.fx import Node

from llmc.backends.cpu.build import headers
from llmc.backends.cpu.caches import TURNED, Caches, written_from
from llmc.backends.cpu.emit import EMIT
from llmc.backends.cpu.emit.attention import cache
from llmc.backends.cpu.emit.products import Parts
from llmc.backends.cpu.layers import Carried, LayerLoop
from llmc.backends.cpu.loops import row_loop
from llmc.backends.cpu.members import Members
from llmc.backends.cpu.names import Names, comment
from llmc.backends.cpu.pack import Packer
from llmc.backends.cpu.plan import (
    CTYPES,
    Buffer,
    Location,
    Plan,
    Statement,
    repeatable,
    whole,
)
from llmc.backends.cpu.score import functor
from llmc.ir.blocks import Blocks
from llmc.ir.cost import node_cost
from llmc.ir.program import Program, origin_of, type_of
from llmc.runtime.contract import unsupported

SAID = (
    "llmc", "row", "rows", "few", "own", "std", "team", "step", "model", "layer", "top", "all", "Model", "Layer", "Step",
    "Team", "Tokens", "Lanes",
)  # fmt: skip
"""Names that the generated function uses."""


class Generator:
    """Walks the nodes, places their values and collects statements; `llmc.backends.cpu.source` prints them.

    inputs, outputs: the caller's memory in the order of the C interface; buffers: memory of the step itself. many, few: the
    plans for steps of many and of few rows.
    orders: of the choices of experts, by what chose. partials: what threads leave for each other within an attention.
    kernels: for each instantiation of a kernel that is compiled apart, its header and what it needs before that.
    prologue, body, epilogue: statements before, in and after the loop over layers; carried: what goes from layer to layer.
    """

    def __init__(self, program: Program) -> None:
        self.program, self.packer, self.caches = program, Packer(program), Caches()
        self.members = Members(self.packer)
        self.buffers: list[Buffer] = []
        self.quantized: dict[tuple[Location, int, int], Parts] = {}
        """Rows in whole numbers that are there: by where they are as floats, their size, and the group of their sums."""
        self.functors: dict[tuple[str, str], tuple[str, str]] = {}
        self.kernels: dict[str, tuple[str, str]] = {}
        self.orders: dict[Node | Carried, tuple[Location, Location]] = {}
        self.partials = Buffer("step.partials", 0, "float32", external=True)
        self.loop: LayerLoop | None = None
        self.prologue: list[Statement] = []
        self.body: list[Statement] = []
        self.epilogue: list[Statement] = []
        self.carried: list[Carried] = []
        self.layers = 0
        self._locations: dict[Node, Location] = {}
        self._computed: set[Node] = set()
        self._done: set[Node] = set()
        self._statements = self.prologue
        self._names = Names(reserved())
        inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
        self.inputs = [self._external(str(node.target), node) for node in inputs]
        self.outputs = [self._external(f"output_{name}", node) for name, node in self._results()]
        self._locations.update(zip(inputs, map(whole, self.inputs), strict=True))
        self._walk()
        sections = self.prologue, self.body, self.epilogue
        self.many = Plan(sections)
        self.few = Plan(sections, repeatable([statement for section in sections for statement in section]))
        for statement in self.few.repeated:  # `rows` is the team, or with few rows each thread alone
            statement.text = re.sub(r"\bteam\b", "rows", statement.text)

    # ---- the walk

    def _walk(self) -> None:
        blocks = self.program.blocks
        inside = {node for layer in blocks.layers for node in layer} if blocks else set()
        for (_, node), output in zip(self._results(), self.outputs, strict=True):
            if node.op == "call_function" and node not in inside:  # it is computed where the caller wants it
                self._locations.setdefault(node, whole(output))
        for node in self.program.nodes:
            if blocks and node is blocks.layers[0][0]:
                self._loop(blocks)
                self._statements = self.epilogue
            if node not in inside:
                self._emit(node)
        for (_, node), output in zip(self._results(), self.outputs, strict=True):
            if self._locations[node].buffer is not output:
                self.move(node, self._locations[node], whole(output))

    def _results(self) -> list[tuple[str, Node]]:
        return list(zip(self.program.outputs, self.program.results, strict=True))

    def _emit(self, node: Node) -> None:
        name = node.target.name  # type: ignore[union-attr]
        if name not in EMIT:
            self.refuse(node, "there is no C++ for it")
        if node not in self._done:
            EMIT[name](self, node)
            self._done.add(node)

    def _loop(self, blocks: Blocks) -> None:
        first, last = blocks.layers[0], blocks.layers[-1]
        pairs: dict[int, Carried] = {}
        for number, (index, start) in enumerate(blocks.carried.items()):
            width, dtype = type_of(start).width, type_of(start).dtype
            now, later = (self.buffer(f"{part}{number}", width, dtype) for part in ("carried", "carried_next"))
            now.twin, later.twin = later, now
            pairs[index] = Carried(now, later)
            self._locations[first[index]] = whole(later)
            self.move(start, self._locations[start], whole(now))
        loop = LayerLoop(blocks, pairs)
        for node in first:
            cached = node.target.name in TURNED and not self.program.whole_sequences  # type: ignore[union-attr]
            if cached and all(loop.shared(node, slot) for slot in written_from(node)):
                cache(self, node)
        self.caches.enter(loop)
        self._statements, self.loop = self.body, loop
        self.quantized.clear()
        for node in first:
            self._emit(node)
        self.quantized.clear()
        self._statements, self.loop = self.epilogue, None
        self.caches.leave(loop)
        for node, after in zip(first, last, strict=True):
            if node in self._locations:  # else it is part of what another statement computes
                self._locations[after] = loop.after(self._locations.pop(node))
        self._done.update(last)
        self.layers, self.carried = len(blocks.layers), list(pairs.values())

    # ---- what emitters use

    def refuse(self, node: Node, reason: str) -> NoReturn:
        """Raise UnsupportedError for a node."""
        raise unsupported("cpu", node.target.name, origin_of(node), reason)  # type: ignore[union-attr]

    def count(self, node: Node) -> str:
        """`T`, `R` or `S`."""
        return str(type_of(node).rows)

    def read(self, node: Node, slot: int) -> Location:
        """Where an operand of a node is."""
        if self.loop and node in self.loop:
            source = self.loop.source(node, slot)
            return whole(source.now) if isinstance(source, Carried) else self._locations[source]
        return self._locations[node.args[slot]]  # type: ignore[index]

    def counterparts(self, node: Node) -> list[Node]:
        """All that the code of a node is for: itself; in the loop, its likes in all layers, of which the last may have readers
        after the loop that the others do not have."""
        return self.loop.counterparts(node) if self.loop and node in self.loop else [node]

    def weights(self, node: Node, slot: int) -> list[str]:
        """The name of the weight that a node reads; in the loop, of each layer's."""
        if self.loop and node in self.loop:
            return self.loop.weights(node, slot)
        return [str(node.args[slot].target)]  # type: ignore[union-attr]

    def parts(self, node: Node, slot: int, layout: str, experts: int = 1) -> list[str]:
        """The addresses of all parts of a weight in a layout: `layer.q_proj`, `layer.q_proj_scale`; of the first expert."""
        return self.members.take(self.weights(node, slot), layout, experts)

    def plain(self, node: Node, slot: int) -> str:
        """The address of a weight as it is computed with."""
        return self.parts(node, slot, "plain")[0]

    def buffer(self, name: str, width: int, dtype: str) -> Buffer:
        """Memory in the arena."""
        buffer = Buffer(self._names.take(name), width, dtype)
        self.buffers.append(buffer)
        return buffer

    def scratch(self, name: str, width: int, dtype: str) -> Location:
        """Memory besides the result."""
        return whole(self.buffer(name, width, dtype))

    def _external(self, name: str, node: Node) -> Buffer:
        return Buffer(self._names.take(name), type_of(node).width, type_of(node).dtype, external=True)

    def new(self, node: Node) -> Location:
        """Memory for the result of a node; the same when asked again."""
        if node not in self._locations:
            self._locations[node] = self.scratch(node.name, type_of(node).width, type_of(node).dtype)
        return self._locations[node]

    def placed(self, node: Node) -> bool:
        """Whether the result of a node has a place already: where the next layer or the caller expects it."""
        return node in self._locations

    def computed(self, view: Node, value: Node) -> Location:
        """The place of a value that a statement is about to compute there, and so a view that is another name for it."""
        place = self._locations[value]
        self._locations[view] = place
        self._computed.update((view, value))
        return place

    def only_reader(self, node: Node) -> Node | None:
        """The node that alone reads a value, in the loop if that is; None if there are more, or none."""
        if any(len(each.users) != 1 for each in self.counterparts(node)):
            return None
        reader = next(iter(node.users))
        leaves = self.loop is not None and (reader in self.loop) != (node in self.loop)
        return None if leaves or reader.op != "call_function" else reader

    def known(self, node: Node, slot: int) -> Location | None:
        """Where an operand is, or None if it is a number or a weight, or not computed yet."""
        source = node.args[slot]
        if not isinstance(source, Node) or source.op == "get_attr":
            return None
        found = self.loop.source(node, slot) if self.loop and node in self.loop else source
        there = isinstance(found, Carried) or found.op == "placeholder" or found in self._done
        return self.read(node, slot) if there else None

    def include(self, node: Node) -> None:
        """A statement of another node computes this one too."""
        self._done.add(node)

    def alias(self, node: Node, location: Location) -> None:
        """The value of a node is part of another's memory."""
        if node in self._computed:
            return
        if node in self._locations:  # the next layer or the caller needs it in a place of its own
            self.move(node, location, self._locations[node])
        else:
            self._locations[node] = Location(location.buffer, location.offset, type_of(node).width)

    def move(self, node: Node, source: Location, target: Location) -> None:
        """Copy a value, row by row."""
        count, size = self.count(node), f"{target.width} * sizeof({CTYPES[target.buffer.dtype]})"
        to, start = f"{target.pointer} + r * {target.stride}", f"{source.pointer} + r * {source.stride}"
        text = f"{row_loop(count)}\n    std::memcpy({to}, {start}, {size});"
        self.add(node, text, target, rows=count, reads=[source], note="")

    def packed(self, node: Node, slot: int) -> Location:
        """An operand whose rows follow each other without a gap; copied if they do not."""
        location = self.read(node, slot)
        if location.whole:
            return location
        target = self.scratch(f"{node.name}_packed", location.width, location.buffer.dtype)
        self.move(node.args[slot], location, target)  # type: ignore[arg-type]
        return target

    def kernel(self, header: str, name: str, *arguments: object, given: str = "") -> str:
        """`name<arguments>`, a kernel template that `header` defines, to be compiled apart from model.cpp, which has only its
        declaration. given: C++ that its arguments are declared by."""
        instance = f"{name}<{', '.join(map(str, arguments))}>"
        self.kernels[instance] = header, given
        return instance

    def functor(self, node: Node) -> tuple[str, str]:
        """The struct for an attention's score expression: its name and its C++."""
        score, admits = node.kwargs["score"], node.kwargs["admits"]
        key = (str(score.to_json()), str(admits.to_json()))  # type: ignore[union-attr]
        if key not in self.functors:
            name = self._names.take(f"Score{len(self.functors)}")
            self.functors[key] = name, functor(name, score, admits)  # type: ignore[arg-type]
        return self.functors[key]

    def add(
        self,
        node: Node,
        text: str,
        *writes: Location | Buffer,
        rows: str | None = None,
        reads: list[Any] | None = None,
        note: str | None = None,
        also: Node | None = None,
    ) -> None:
        """A statement that computes (part of) a node. reads None: the node's operands; note None: where it comes from, and
        where another node that it computes does (also)."""
        if reads is None:
            slots = [i for i, arg in enumerate(node.args) if isinstance(arg, Node) and arg.op != "get_attr"]
            reads = [self.read(node, slot) for slot in slots]
        read, written = ([x.buffer if isinstance(x, Location) else x for x in group] for group in (reads, writes))
        if note is None:
            cost = node_cost(self.program, node)
            size = f"  {cost.weight_bytes / 1e6:.2f} MB, {cost.flops / 1e6:.2f} MFLOP a row" if cost.weight_bytes > 1e4 else ""
            note = f"{self._where(node)}{f' + {self._where(also)}' if also else ''}{size}"
        nodes, others = self.counterparts(node), self.counterparts(also) if also else ()
        self._statements.append(Statement(text, read, written, rows, comment(note), nodes, others))

    def _where(self, node: Node) -> str:
        """The origin of a node, its layer's number replaced by `*` within the loop."""
        text, module = str(origin_of(node)), origin_of(node).module
        return text.replace(module, self.loop.module(node), 1) if self.loop and node in self.loop and module else text


def reserved() -> set[str]:
    """Names that variables of the generated function must not have: what it says itself, and all that the kernels call."""
    called = re.findall(r"\w+(?=[(<])", " ".join(headers().values()))
    return {*SAID, *called, *CTYPES.values()}
