"""Linear layers that read the same value, as one."""

from __future__ import annotations

import torch
from torch.fx import Node

from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.program import origin_of, type_of
from llmc.ir.rewrite import Report
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
    if len({str(node.args[1].target) for node in linears}) < len(linears):  # type: ignore[union-attr]
        return "they read one weight"
    if any(node.kwargs != linears[0].kwargs for node in linears):
        return "they round their input in different ways"
    return None


Key = tuple[tuple[str, str | None], ...]
"""The weight and the bias of each linear of a group, by name."""


def merge_groups(editor: Editor, groups: list[tuple[Origin, list[Node]]], report: Report) -> bool:
    """Replace each group of linear nodes by slices of one; whether there was any that could be.

    Groups that read the same weights, in layers that share them, read the same merged weight. A weight that something besides
    such groups reads is left alone, since a merged copy would come on top of it.
    """
    keys: dict[Node, Key] = {}
    wanted: list[tuple[Origin, list[Node]]] = []
    for origin, linears in groups:
        if any(node in keys for node in linears):  # two attentions may read the same projections
            report.refused(origin, "one of its linears is merged for another")
            continue
        keys.update(dict.fromkeys(linears, key_of(linears)))
        wanted.append((origin, linears))
    merged: dict[Key, list[Node]] = {}
    for origin, linears in wanted:
        other = other_reader(linears, keys)
        if other is not None:
            report.refused(origin, f"'{other.target}' is read elsewhere too, and a merged copy would come on top of it")
            continue
        key = key_of(linears)
        if key not in merged:
            merged[key] = merged_operands(editor, linears)
        merge_linears(editor, linears, merged[key])
        report.matched(origin)
    return bool(merged)


def key_of(linears: list[Node]) -> Key:
    """What groups must have in common to read one merged weight."""
    return tuple((str(node.args[1].target), _bias_name(node)) for node in linears)  # type: ignore[union-attr]


def _bias_name(node: Node) -> str | None:
    bias = node.args[2] if len(node.args) > 2 else None
    return str(bias.target) if isinstance(bias, Node) else None


def other_reader(linears: list[Node], keys: dict[Node, Key]) -> Node | None:
    """A weight of a group that a node reads which is in no group of the same weights, or None."""
    own = key_of(linears)
    weights = [node.all_input_nodes[1] for node in linears]
    return next((weight for weight in weights if any(keys.get(user) != own for user in weight.users)), None)


def merged_operands(editor: Editor, linears: list[Node]) -> list[Node]:
    """Weight, and bias if there is any, of linear nodes, one after another by rows."""
    names = [name for name, _ in key_of(linears)]
    weight = Concatenated(tuple(editor.weights[name] for name in names), tuple(names))
    operands = [editor.weight(weight, "+".join([names[0], *(short(name) for name in names[1:])]))]
    if any(_bias_name(node) is not None for node in linears):
        bias = Concatenated(tuple(bias_of(editor, node) for node in linears))
        operands.append(editor.weight(bias, f"{operands[0].target}.bias"))
    return operands


def merge_linears(editor: Editor, linears: list[Node], operands: list[Node]) -> None:
    """Replace linear nodes by slices of one that has these operands besides what they read."""
    first = min(linears)
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
