"""The generator: a program, node by node, as one C++ function over a table of layers."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from torch.fx import Node

from llmc.backends.cpu.emit import CTYPES, EMIT
from llmc.backends.cpu.loops import row_loop
from llmc.backends.cpu.pack import Packer
from llmc.backends.cpu.plan import Buffer, Location, Statement, assign_offsets, place_barriers
from llmc.backends.cpu.score import functor
from llmc.ir import ops
from llmc.ir.cost import node_cost
from llmc.ir.op import OPS
from llmc.ir.program import Program, origin_of, type_of
from llmc.runtime.contract import BLOCK, unsupported

RESERVED = (*OPS, "T", "R", "r", "l", "team", "step", "model", "layer", "float", "double", "int", "auto", "new", "delete",
            "register", "template", "this", "switch", "case", "default", "const", "static", "struct", "union")  # fmt: skip
"""Names that variables of the generated function must not have."""


def identifier(name: str) -> str:
    """A name that C++ accepts."""
    clean = re.sub(r"\W", "_", name)
    return f"w_{clean}" if not clean or clean[0].isdigit() else clean


class Generator:
    """Walks the nodes, places their values and collects statements; `llmc.backends.cpu.source` prints them."""

    def __init__(self, program: Program) -> None:
        self.program, self.packer = program, Packer(program)
        self.buffers: list[Buffer] = []
        self.functors: dict[tuple[str, str], tuple[str, str]] = {}
        self.caches: list[int] = []  # floats a block, two for each slot: keys, values
        self.layer_fields: dict[str, list[str]] = {}  # struct field: weight name in each layer
        self.global_fields: dict[str, str] = {}  # struct field: weight name
        self.carried: list[tuple[Buffer, Buffer]] = []  # of a layer: what it is given, what it leaves to the next
        self._locations: dict[Node, Location] = {}
        self._slots: dict[tuple[Any, Any], dict[str, Buffer]] = {}
        self._statements: list[Statement] = []
        self._body: dict[Node, int] | None = None
        self._names = set(RESERVED)
        self.run()

    # ---- the walk

    def run(self) -> None:
        """Place and emit everything."""
        program = self.program
        for name, node in zip(program.outputs, program.results, strict=True):
            if type_of(node).dtype != "float32":
                self.refuse(node, f"output '{name}' is {type_of(node)}, not float32")
        for node in program.graph.nodes:
            if node.op == "placeholder":
                self._locations[node] = Location(Buffer(identifier(node.target), 1, "int64", external=True), 0, 1)
        blocks = program.blocks
        layers = blocks.layers if blocks else ()
        inside = {node for layer in layers for node in layer}
        first = layers[0][0] if layers else None
        self.prologue: list[Statement] = []
        self.body: list[Statement] = []
        self.epilogue: list[Statement] = []
        self._statements = self.prologue
        for node in program.nodes:
            if node is first:
                self._loop(blocks)
                self._statements = self.epilogue
            if node not in inside:
                self._emit(node)
        self.layers = len(layers)
        for name, node in zip(program.outputs, program.results, strict=True):
            self._output(name, node)
        self._plan()

    def _emit(self, node: Node) -> None:
        name = node.target.name  # type: ignore[union-attr]
        if name not in EMIT:
            self.refuse(node, "there is no C++ for it")
        EMIT[name](self, node)

    def _loop(self, blocks: Any) -> None:
        layers = blocks.layers
        self._layers = layers
        pairs = {(n.args[1], n.args[2]) for n in layers[0] if n.target is ops.attention}
        self._loop_caches = 2 * len(pairs - set(self._slots))
        first_cache = len(self.caches)
        entering = {}
        for number, (index, start) in enumerate(blocks.carried.items()):
            width, dtype = type_of(start).width, type_of(start).dtype
            now, later = (self._buffer(f"{part}{number}", width, dtype) for part in ("carried", "carried_next"))
            self.carried.append((now, later))
            entering[start] = self.at(start)
            self.move(start, self.at(start), Location(now, 0, width))
            self._locations[start] = Location(now, 0, width)
            self._locations[layers[0][index]] = Location(later, 0, width)
        self._statements, self._body = self.body, {node: i for i, node in enumerate(layers[0])}
        for node in layers[0]:
            self._emit(node)
        self.caches += self.caches[first_cache:] * (len(layers) - 1)
        for start, location in entering.items():
            self._locations[start] = location
        carried = list(blocks.carried)
        for j, (here, last) in enumerate(zip(layers[0], layers[-1], strict=True)):
            if j in carried:
                now = self.carried[carried.index(j)][0]
                self._locations[last] = Location(now, 0, now.width)
            elif here in self._locations:
                self._locations[last] = self._locations[here]
        self._body = None

    def _output(self, name: str, node: Node) -> None:
        """Let the op that makes a result write to the caller's memory; copy it there if the value has other readers."""
        location = self.at(node)
        target = Buffer(f"output_{identifier(name)}", location.width, "float32", external=True)
        last = bool(self._statements) and self._statements[-1].writes == [location.buffer]
        own = last and len(node.users) == 1 and node.target is ops.linear
        if not own:
            self.move(node, location, Location(target, 0, target.width))
            return
        statement = self._statements[-1]
        statement.text = re.sub(rf"\b{location.buffer.name}\b", target.name, statement.text)
        statement.writes = [target]

    def _plan(self) -> None:
        """Lifetimes, offsets, barriers."""
        sequence = [*self.prologue, *self.body, *self.epilogue]
        enter, leave = len(self.prologue), len(self.prologue) + len(self.body) - 1
        for i, statement in enumerate(sequence):
            for buffer in (*statement.reads, *statement.writes):
                buffer.touch(i)
        for buffer in (buffer for pair in self.carried for buffer in pair):
            buffer.touch(enter)
            buffer.touch(leave)
        for buffer in self.buffers:
            if self.body and buffer.first < enter <= buffer.last:  # a value from before the loop lives until its end
                buffer.touch(leave)
        self.arena = assign_offsets(self.buffers)
        self.unshared = sum(buffer.bytes for buffer in self.buffers if not buffer.external)
        self.barriers = [place_barriers(section) for section in (self.prologue, self.body, self.epilogue)]

    # ---- what emitters use

    def refuse(self, node: Node, reason: str) -> NoReturn:
        """Raise UnsupportedError for a node."""
        raise unsupported("cpu", node.target.name, origin_of(node), reason)  # type: ignore[union-attr]

    def count(self, node: Node) -> str:
        """`T` or `R`."""
        return str(type_of(node).rows)

    def at(self, node: Any) -> Location:
        """Where a value is."""
        return self._locations[node]

    def _buffer(self, name: str, width: int, dtype: str) -> Buffer:
        base, count = identifier(name), 0
        unique = base
        while unique in self._names:
            count += 1
            unique = f"{base}_{count}"
        self._names.add(unique)
        buffer = Buffer(unique, width, dtype)
        self.buffers.append(buffer)
        return buffer

    def scratch(self, name: str, width: int, dtype: str) -> Location:
        """Memory besides the result."""
        return Location(self._buffer(name, width, dtype), 0, width)

    def new(self, node: Node) -> Location:
        """Memory for the result of a node."""
        if node not in self._locations:
            self._locations[node] = self.scratch(node.name, type_of(node).width, type_of(node).dtype)
        return self._locations[node]

    def alias(self, node: Node, location: Location) -> None:
        """The value of a node is part of another's memory."""
        if node in self._locations:  # it goes from layer to layer and needs memory of its own
            self.move(node, location, self._locations[node])
        else:
            self._locations[node] = Location(location.buffer, location.offset, type_of(node).width)

    def move(self, node: Node, source: Location, target: Location) -> None:
        """Copy a value, row by row."""
        count, size = self.count(node), f"{target.width} * sizeof({CTYPES[target.buffer.dtype]})"
        to, start = f"{target.pointer} + r * {target.width}", f"{source.pointer} + r * {source.stride}"
        text = f"{row_loop(count)}\n    std::memcpy({to}, {start}, {size});"
        self.add(node, text, target, rows=True, reads=[source], comment="")

    def packed(self, node: Any) -> Location:
        """A value whose rows follow each other without a gap; copied if they do not."""
        location = self.at(node)
        if location.whole:
            return location
        target = self.scratch(f"{node.name}_packed", location.width, location.buffer.dtype)
        self.move(node, location, target)
        return target

    def field(self, node: Node) -> str:
        """The struct member that holds a weight: `layer.q_proj_weight` within the loop, else `model.lm_head_weight`."""
        name = str(node.target)
        if self._body is None:
            return f"model.{self._global(name)}"
        reader, slot = self._reader(node)
        names = [str(layer[reader].args[slot].target) for layer in self._layers]
        if len(set(names)) == 1:
            return f"model.{self._global(name)}"
        short = identifier(self._short(names))
        unique, count = short, 1
        while self.layer_fields.setdefault(unique, names) != names:
            unique, count = f"{short}_{count}", count + 1
        return f"layer.{unique}"

    def _reader(self, node: Node) -> tuple[int, int]:
        assert self._body is not None
        for user in node.users:
            if user in self._body:
                return self._body[user], list(user.args).index(node)
        raise AssertionError(f"{node} is not read in the loop")

    def _short(self, names: list[str]) -> str:
        """The part of a weight's name after what differs between layers."""
        parts = [name.split(".") for name in names[:2]]
        differing = next((i for i, (a, b) in enumerate(zip(*parts, strict=False)) if a != b), -1)
        rest = parts[0][differing + 1 :]
        if rest and rest[0].isdigit():  # layers within a list within a list
            rest = [*parts[0][max(differing - 1, 0) : differing], *rest]
        return ".".join(rest) or names[0]

    def _global(self, name: str) -> str:
        member = identifier(name)
        while self.global_fields.setdefault(member, name) != name:
            member += "_"
        return member

    def plain(self, node: Any) -> str:
        """The address of a weight that is not packed for products."""
        if self.packer.layout(str(node.target)) != "plain":
            user = next(iter(node.users))
            self.refuse(user, f"weight '{node.target}' is also read by a linear layer, which packs it")
        return self.field(node)

    def fields(self, node: Node) -> str:
        """The addresses of all parts of a weight, as arguments."""
        member = self.field(node)
        return ", ".join(member + part.suffix for part in self.packer.fields[str(node.target)])

    def cache(self, node: Node) -> tuple[dict[str, Buffer], bool]:
        """The cache of an attention's keys and values, and whether this attention is the first of the step to use it."""
        pair = (node.args[1], node.args[2])
        if pair in self._slots:
            return self._slots[pair], False
        index = len(self.caches)
        self.caches += [type_of(value).width * BLOCK for value in pair]
        step = f"l * {self._loop_caches} + " if self._body is not None else ""
        slots = {
            part: Buffer(f"step.caches[{step}{index + i}]", 0, "float32", external=True)
            for i, part in enumerate(("keys", "values"))
        }
        self._slots[pair] = slots
        return slots, True

    def functor(self, node: Node) -> str:
        """The name of the struct for an attention's score expression."""
        score, admits = node.kwargs["score"], node.kwargs["admits"]
        key = (str(score.to_json()), str(admits.to_json()))  # type: ignore[union-attr]
        if key not in self.functors:
            name = f"Score{len(self.functors)}"
            self.functors[key] = name, functor(name, score, admits)  # type: ignore[arg-type]
        return self.functors[key][0]

    def add(
        self,
        node: Any,
        text: str,
        *writes: Location | Buffer,
        rows: bool = False,
        reads: list[Any] | None = None,
        comment: str | None = None,
        **more: Any,
    ) -> None:
        """A statement that computes (part of) a node. reads None: the node's operands."""
        if reads is None:
            reads = [self.at(arg) for arg in node.args if isinstance(arg, Node) and arg.op != "get_attr"]
        targets = [*writes, *more.get("writes", ())]
        buffers = [[item.buffer if isinstance(item, Location) else item for item in group] for group in (reads, targets)]
        if comment is None:
            cost = node_cost(self.program, node)
            size = f"  {cost.weight_bytes / 1e6:.2f} MB, {cost.flops / 1e6:.2f} MFLOP a row" if cost.weight_bytes > 1e4 else ""
            comment = f"{self._where(node)}{size}"
        read, written = buffers
        self._statements.append(Statement(text, read, written, self.count(node) if rows else None, comment))

    def _where(self, node: Node) -> str:
        """The origin of a node, its layer's number replaced by `*` within the loop."""
        text = str(origin_of(node))
        if self._body is None or node not in self._body:
            return text
        other = origin_of(self._layers[1][self._body[node]]).module.split(".")
        module = origin_of(node).module.split(".")
        if len(other) != len(module):
            return text
        joined = ".".join(a if a == b else "*" for a, b in zip(module, other, strict=True))
        return text.replace(origin_of(node).module, joined, 1)
