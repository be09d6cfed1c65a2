"""Weights as they are stored: products, tables and other weights in every format."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from llmc.conformance.programs import VOCAB, WIDTH, Make, weight
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.formats import Integer
from llmc.ir.weights import Encoded, Stored, Weight

DENSE = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
FORMATS = (*DENSE, "int8")
"""What a program's weights may be stored in, as `Backend.formats` and `Backend.lacks` name it."""

REQUIRED = ("f32", "int8")
"""Formats that no hardware lacks."""


def round_rows(rows: Tensor) -> dict[str, Tensor]:
    """Each row as whole numbers, the largest 127, and a scale."""
    scale = rows.abs().amax(1) / 127
    return {"values": torch.round(rows / scale[:, None]).to(torch.int8), "scale": scale}


def stored(format: str, *shape: int) -> Weight:
    """Random numbers in a format."""
    numbers = torch.randn(shape)
    return Stored(numbers.to(DENSE[format])) if format in DENSE else Encoded(Stored(numbers), Integer(8), round_rows)


def product(format: str, rows: int, columns: int, activations: str) -> Make:
    """`linear` of a width that fills no vector."""

    def make(e: Editor, a: Node, b: Node) -> Node:
        x = a if columns == WIDTH else e.op(ops.linear, a, weight(e, columns, WIDTH))
        bias = weight(e, rows)
        return e.op(ops.linear, x, e.weight(stored(format, rows, columns), "w"), bias, activations=activations)

    return make


def table(format: str) -> Make:
    return lambda e, a, b: e.op(ops.embedding, e.input("input_ids"), e.weight(stored(format, VOCAB, 45), "table"))


def tied(format: str) -> Make:
    """A table that is looked up and multiplied with."""

    def make(e: Editor, a: Node, b: Node) -> Node:
        both = e.weight(stored(format, VOCAB, WIDTH), "both")
        attributes = {"activations": "int8"} if format == "int8" else {}
        return e.op(ops.linear, e.op(ops.embedding, e.input("input_ids"), both), both, **attributes)

    return make


def norm(format: str) -> Make:
    return lambda e, a, b: e.op(ops.rms_norm, a, e.weight(stored(format, WIDTH), "norm"), eps=1e-5)


WEIGHTS: dict[tuple[str, str], Make] = {
    **{("linear", name): product(name, 21, WIDTH, "float32") for name in FORMATS},
    **{("linear-long", name): product(name, 18, 333, "float32") for name in FORMATS},
    **{("linear-rounded", name): product(name, 21, WIDTH, "int8") for name in FORMATS},
    **{("linear-rounded-long", name): product(name, 18, 333, "int8") for name in FORMATS},
    **{("embedding", name): table(name) for name in FORMATS},
    **{("tied", name): tied(name) for name in FORMATS},
    **{("norm", name): norm(name) for name in DENSE},
}
"""By what the weight is for, and its format."""


def rounds(use: str, format: str) -> bool:
    """Whether activations are rounded on the way."""
    return use.startswith("linear-rounded") or (use == "tied" and format == "int8")
