"""Fused ops, read whole, by halves, and by the products that they round for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.fx import Node

from llmc.conformance.formats import stored
from llmc.conformance.programs import WIDTH, Make, angles, heads, weight
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.op import Op
from llmc.ir.score import CAUSAL, SCORE

Build = Callable[..., Node]
"""From an editor, two values and attributes to the node of a fused op."""


def norm(op: Op, residual: bool, weights: int) -> Build:
    def build(e: Editor, a: Node, b: Node, **attributes: Any) -> Node:
        operands = [a, b] if residual else [a]
        return e.op(op, *operands, *(weight(e, WIDTH) for _ in range(weights)), eps=1e-5, **attributes)

    return build


def activation(op: Op, **own: Any) -> Build:
    return lambda e, a, b, **attributes: e.op(op, *([a, b] if op is ops.rounded_gated else [a]), **own, **attributes)


def gates(format: str, size: int, biased: bool) -> Build:
    """Twice as many outputs as the result has."""

    def build(e: Editor, a: Node, b: Node) -> Node:
        bias = [weight(e, 2 * size)] if biased else []
        activations = "int8" if format == "int8" else "float32"
        w = e.weight(stored(format, 2 * size, WIDTH), "w")
        return e.op(ops.gated_linear, a, w, *bias, activation="silu", activations=activations)

    return build


SUMS: dict[str, Build] = {
    "add_rms_norm": norm(ops.add_rms_norm, True, 1),
    "add_rms_norm-plain": norm(ops.add_rms_norm, True, 0),
    "add_layer_norm": norm(ops.add_layer_norm, True, 2),
    "rounded_add_rms_norm": norm(ops.rounded_add_rms_norm, True, 1),
    "rounded_add_layer_norm": norm(ops.rounded_add_layer_norm, True, 2),
}
"""Ops that give a sum and its norm."""

OTHERS: dict[str, Build] = {
    "rounded_rms_norm": norm(ops.rounded_rms_norm, False, 1),
    "rounded_layer_norm": norm(ops.rounded_layer_norm, False, 2),
    "gated_linear": gates("int8", 32, True),
    "gated_linear-floats": gates("f32", 21, False),
    "rounded_gated": activation(ops.rounded_gated, activation="silu"),
    "rounded_gated-gelu": activation(ops.rounded_gated, activation="gelu_tanh"),
    "rounded_silu": activation(ops.rounded_silu),
    "rounded_relu": activation(ops.rounded_relu),
    "rounded_gelu": activation(ops.rounded_gelu, approximate="none"),
}


def half(e: Editor, whole: Node, index: int) -> Node:
    """One of the two values in `[T, 2, ...]`."""
    part = e.op(ops.slice_, whole, dim=1, start=index, stop=index + 1)
    return e.op(ops.reshape, part, shape=part.meta["type"].fixed[1:])


def rounding(name: str) -> dict[str, str]:
    return {"to": "int8"} if name.startswith("rounded") else {}


def alone(name: str, build: Build) -> Make:
    return lambda e, a, b: build(e, a, b, **rounding(name))


def read(e: Editor, a: Node, b: Node, name: str, build: Build) -> list[Node]:
    """By two products, if it is rounded for them, the sum being read besides."""
    x = build(e, a, b, **rounding(name))
    values = [half(e, x, 1), half(e, x, 0)] if name in SUMS else [x]
    if name.startswith("rounded"):
        tables = [e.weight(stored("int8", rows, WIDTH), "w") for rows in (21, WIDTH)]
        values[:1] = [e.op(ops.linear, values[0], table, activations="int8") for table in tables]
    return values


def all_read(builds: dict[str, Build]) -> Make:
    """What is read of several, one after another."""
    return lambda e, a, b: e.op(ops.concat, *(v for name, build in builds.items() for v in read(e, a, b, name, build)), dim=1)


def turned(pairs: int, layout: str) -> Make:
    """Fewer key heads than heads, and only part of a head turned if pairs are below six."""

    def make(e: Editor, a: Node, b: Node) -> Node:
        key, value = (e.op(ops.slice_, heads(e, x), dim=1, start=1, stop=2) for x in (a, b))
        attributes = {"layout": layout, "scale": 0.3, "score": SCORE, "admits": CAUSAL}
        return e.op(ops.rope_attention, heads(e, a), key, value, *angles(e, pairs), **attributes)

    return make


TURNS = (turned(6, "halves"), turned(4, "halves"), turned(6, "pairs"))

FUSED: dict[str, Make] = {
    **{name: alone(name, build) for name, build in (SUMS | OTHERS).items() if "-" not in name},
    "rope_attention": TURNS[0],
}
"""One case an op."""

TOGETHER: dict[str, Make] = {
    "sums": all_read(SUMS),
    "others": all_read(OTHERS),
    "turns": lambda e, a, b: e.op(ops.concat, *(make(e, a, b) for make in TURNS), dim=1),
}
"""Many in one program, as their readers see them."""
