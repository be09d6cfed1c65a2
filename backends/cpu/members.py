"""The structs Layer and Model: a member for each part of each weight that the step function reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmc.backends.cpu.names import Names
from llmc.backends.cpu.pack import Packer, Part
from llmc.backends.cpu.plan import CTYPES

RESERVED = {*CTYPES.values(), "Layer", "Model", "layers"}
"""What the structs themselves say."""


@dataclass(frozen=True)
class Member:
    """A pointer: C type, name, a note of what it is, and its offset into the packed weights, in Layer one for each layer."""

    ctype: str
    name: str
    note: str
    offsets: tuple[int, ...]


class Members:
    """Names weights as they are asked for."""

    def __init__(self, packer: Packer) -> None:
        self.packer = packer
        self.model: list[Member] = []
        self.layer: list[Member] = []
        self._names = {kind: Names(RESERVED) for kind in ("model", "layer")}
        self._known: dict[tuple[tuple[str, ...], str, int], list[str]] = {}

    def take(self, weights: Sequence[str], layout: str, experts: int = 1) -> list[str]:
        """The C++ of each part of a weight: of one for all (`model.head`), or of each layer's own (`layer.q_proj`).

        experts: whose matrices it holds; the parts are the first expert's, and the statement adds `stride` for the others.
        """
        weights = tuple(weights) if len(set(weights)) > 1 else (weights[0],)
        if (weights, layout, experts) not in self._known:
            kind, members = ("model", self.model) if len(weights) == 1 else ("layer", self.layer)
            columns = list(zip(*(self.packer.pack(name, layout, experts) for name in weights), strict=True))
            if any(len({(part.ctype, part.suffix) for part in column}) != 1 for column in columns):
                raise AssertionError(f"layers store a weight in different ways: {', '.join(weights)}")
            suffixes = [column[0].suffix for column in columns]
            base = self._names[kind].take(weights[0] if kind == "model" else short(weights), suffixes)
            whose = f"{weights[0]}: " if kind == "model" else ""
            for column in columns:
                offsets = tuple(part.offset for part in column)
                note = whose + self._note(weights[0], column[0])
                members.append(Member(column[0].ctype, base + column[0].suffix, note, offsets))
            self._known[weights, layout, experts] = [f"{kind}.{base}{suffix}" for suffix in suffixes]
        return self._known[weights, layout, experts]

    def _note(self, name: str, part: Part) -> str:
        """What a pointer leads to: `int8[512, 256]`, `scales of int8[512, 256]`, `float32 of bf16[256]`."""
        weight = self.packer.program.weights[name]
        if part.suffix:
            return f"{'zero points' if part.suffix == '_zero' else 'scales'} of {weight}"
        widened = part.ctype == "const float*" and str(weight.format) != "f32"
        return f"float32 of {weight}" if widened else str(weight)


def short(names: Sequence[str]) -> str:
    """The part of a weight's name after what differs between layers."""
    parts = [name.split(".") for name in names[:2]]
    differing = next((i for i, (a, b) in enumerate(zip(*parts, strict=False)) if a != b), -1)
    rest = parts[0][differing + 1 :]
    if rest and rest[0].isdigit():  # layers within a list within a list
        rest = [*parts[0][max(differing - 1, 0) : differing], *rest]
    return ".".join(rest) or names[0]
