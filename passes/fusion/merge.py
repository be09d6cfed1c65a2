"""Linear layers that read the same value, as one."""

from __future__ import annotations

import torch
from torch.fx import Node

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.program import origin_of, type_of
from llmc.ir.types import Origin
from llmc.ir.weights import Concatenated, Stored, Weight


def obstacle(editor: Editor, linears: list[Node]) -> str | None:
    """Why linear nodes cannot become one, or None."""
    if len(set(linears)) != len(linears):
        return "one linear is read twice"
    if any(node.args[0] is not linears[0].args[0] for node in linears):
        return "they read different values"
    weights = [editor.weights[str(node.args[1].target)] for node in linears]  # type: ignore[union-attr]
    if any(weight.format != weights[0].format or len(weight.shape) != 2 for weight in weights):
        return f"their weights are {', '.join(map(str, weights))}"
    if any(node.kwargs != linears[0].kwargs for node in linears):
        return "they round their input in different ways"
    return None


def merge_linears(editor: Editor, linears: list[Node]) -> None:
    """Replace linear nodes by slices of one whose weight is theirs, one after another by rows."""
    order = {node: i for i, node in enumerate(editor.graph.nodes)}
    first = min(linears, key=order.__getitem__)
    names = [str(node.args[1].target) for node in linears]  # type: ignore[union-attr]
    weight = Concatenated(tuple(editor.weights[name] for name in names))
    operands: list[Node | None] = [editor.weight(weight, "+".join([names[0], *(short(name) for name in names[1:])]))]
    if any(len(node.args) > 2 and node.args[2] is not None for node in linears):
        bias = Concatenated(tuple(bias_of(editor, node) for node in linears))
        operands.append(editor.weight(bias, f"{operands[0].target}.bias"))  # type: ignore[union-attr]
    origin = Origin.merge([origin_of(node) for node in linears])
    with editor.before(first, origin):
        whole = editor.op(ops.linear, linears[0].args[0], *operands, **first.kwargs)
    start, last = 0, len(type_of(whole).shape) - 1
    for node in linears:
        stop = start + int(type_of(node).shape[-1])
        with editor.before(node):
            part = editor.op(ops.slice_, whole, dim=last, start=start, stop=stop)
        editor.replace(node, part)
        editor.graph.erase_node(node)
        start = stop


def short(name: str) -> str:
    """`up_proj` of `model.layers.0.mlp.up_proj.weight`."""
    parts = name.split(".")
    return parts[-2] if len(parts) > 1 and parts[-1] == "weight" else parts[-1]


def bias_of(editor: Editor, node: Node) -> Weight:
    """The bias of a linear, zeros if it has none."""
    if len(node.args) > 2 and isinstance(node.args[2], Node):
        bias = editor.weights[str(node.args[2].target)]
        return bias if str(bias.format) == "f32" else Stored(bias.evaluate())
    return Stored(torch.zeros(int(type_of(node).shape[-1])))
