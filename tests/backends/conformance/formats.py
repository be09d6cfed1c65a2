"""Weights as they are stored: products, tables and other weights in every format."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from llmc.conformance.programs import VOCAB, WIDTH, Make, weight
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.formats import GROUPS, MIDDLE, Format, Integer, pack_nibbles
from llmc.ir.weights import Encoded, Stored, Weight

DENSE = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
REQUIRED = ("f32", "int8")
"""Formats that every backend reads."""


def round_rows(rows: Tensor) -> dict[str, Tensor]:
    """Each row as whole numbers, the largest 127, and a scale."""
    scale = rows.abs().amax(1) / 127
    return {"values": torch.round(rows / scale[:, None]).to(torch.int8), "scale": scale}


def round_groups(form: Integer) -> Callable[[Tensor], dict[str, Tensor]]:
    """Rows as codes of four bits, every code among them, and for each group a scale and, if the format has it, a zero point."""
    group = form.group or 0

    def encode(rows: Tensor) -> dict[str, Tensor]:
        grouped = F.pad(rows, (0, -rows.shape[1] % group)).unflatten(1, (-1, group))
        low, high = grouped.amin(-1), grouped.amax(-1)
        span = (high - low) / 15 if form.zero_point else torch.maximum(high / 7, low / -8)
        scale = span.half()
        zero = torch.round(-low / scale.float()) if form.zero_point else torch.full_like(low, MIDDLE)
        codes = (torch.round(grouped / scale.float()[..., None]) + zero[..., None]).clamp(0, 15).to(torch.uint8)
        parts = {"values": pack_nibbles(codes.flatten(1)), "scale": scale}
        return {**parts, "zero": zero.to(torch.uint8)} if form.zero_point else parts

    return encode


INTEGERS: dict[str, tuple[Format, Callable[[Tensor], dict[str, Tensor]]]] = {
    "int8": (Integer(8), round_rows),
    **{str(form): (form, round_groups(form)) for form in (Integer(4, g, z) for g in GROUPS for z in (False, True))},
}


FORMATS = (*DENSE, *INTEGERS)
"""What a program's weights may be stored in, as `Backend.formats` and `Backend.lacks` name it."""


def stored(format: str, *shape: int) -> Weight:
    """Random numbers in a format."""
    numbers = torch.randn(shape)
    return Stored(numbers.to(DENSE[format])) if format in DENSE else Encoded(Stored(numbers), *INTEGERS[format])


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
        attributes = {"activations": "int8"} if format in INTEGERS else {}
        x = e.op(ops.mul, e.op(ops.embedding, e.input("input_ids"), both), weight(e, WIDTH))  # off the middle between steps
        return e.op(ops.linear, x, both, **attributes)

    return make


def experts(format: str, activations: str) -> Make:
    """Products with the matrices of chosen experts, whose rows fill no vector."""

    def make(e: Editor, a: Node, b: Node) -> Node:
        chosen = e.op(ops.top_k_indices, e.op(ops.linear, b, weight(e, 3, WIDTH)), k=2)
        matrices = e.weight(stored(format, 3 * VOCAB, WIDTH), "experts")
        return e.op(ops.expert_linear, a, chosen, matrices, weight(e, 3 * VOCAB), experts=3, activations=activations)

    return make


def norm(format: str) -> Make:
    return lambda e, a, b: e.op(ops.rms_norm, a, e.weight(stored(format, WIDTH), "norm"), eps=1e-5)


WEIGHTS: dict[tuple[str, str], Make] = {
    **{("linear", name): product(name, VOCAB, WIDTH, "float32") for name in FORMATS},
    **{("linear-long", name): product(name, 18, 333, "float32") for name in FORMATS},
    **{("linear-int8", name): product(name, VOCAB, WIDTH, "int8") for name in FORMATS},
    **{("linear-int8-long", name): product(name, 18, 333, "int8") for name in FORMATS},
    **{("linear-bfloat16", name): product(name, 18, 333, "bfloat16") for name in FORMATS},
    **{("embedding", name): table(name) for name in FORMATS},
    **{("tied", name): tied(name) for name in FORMATS},
    **{("experts", name): experts(name, "float32") for name in FORMATS},
    **{("experts-int8", name): experts(name, "int8") for name in INTEGERS},
    **{("experts-bfloat16", name): experts(name, "bfloat16") for name in ("f32", "bf16")},
    **{("norm", name): norm(name) for name in DENSE},
}
"""By what the weight is for, and its format. Of one shape where they can be: a backend may have one kernel for several."""


def rounds(use: str, format: str) -> bool:
    """Whether activations are rounded on the way."""
    return use.endswith(("-int8", "-int8-long", "-bfloat16")) or (use == "tied" and format in INTEGERS)
