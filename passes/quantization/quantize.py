"""Quantize the weights of linear layers, and round their inputs as they come."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Literal

from pydantic import Field
from torch.fx import Node

from llmc.errors import PipelineError
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.formats import Dense, Integer
from llmc.ir.program import Program, origin_of
from llmc.ir.weights import Concatenated, Encoded, Weight
from llmc.passes.quantization.rounding import round_rows
from llmc.pipeline.base import Pass, PassContext


class Quantize(Pass):
    """Weights to int8 with a scale for each output channel; activations to int8 with a scale for each token, at run time.

    Round to nearest, no calibration (W8A8 with dynamic activations, as in Dettmers et al. 2022 without the outliers).

    Before:  linear(x, W: f32)
    After:   linear(x, W: int8, activations="int8")

    A table that an embedding shares with a linear layer is quantized for both; for any other reader the weight stays as it is
    beside its int8 form. `skip` names weights to leave, by patterns such as `lm_head.*`; where weights were merged, the name of
    any of them leaves the whole.
    """

    name = "quantize"
    provides = frozenset({"quantized"})

    class Config(Pass.Config):
        """Options."""

        bits: Literal[8] = Field(8, description="bits of a weight")
        skip: tuple[str, ...] = Field((), description="patterns of weight names to leave as they are")

    def run(self, program: Program, ctx: PassContext) -> Program:
        check_patterns(self.config.skip, program.weights)
        editor = program.edit(self.name)
        done: dict[str, Node] = {}
        for node in [node for node in editor.nodes if node.target is ops.linear]:
            table: Node = node.args[1]  # type: ignore[assignment]
            name = str(table.target)
            weight = program.weights[name]
            skipped = next((n for n in names_of(name, weight) if any(fnmatch(n, p) for p in self.config.skip)), None)
            if skipped is not None:
                part = "" if skipped == name else f", which '{skipped}' is part of,"
                ctx.refused(origin_of(node), f"'{name}'{part} is skipped by the options")
                continue
            if not isinstance(weight.format, Dense):
                ctx.refused(origin_of(node), f"'{name}' is already {weight.format}")
                continue
            if name not in done:
                done[name] = quantized(editor, table, ctx)
            ctx.matched(origin_of(node))
            with editor.before(node):
                operands = (node.args[0], done[name], *node.args[2:])
                editor.replace(node, editor.op(ops.linear, *operands, **{**node.kwargs, "activations": "int8"}))
            editor.graph.erase_node(node)
        return editor.finish() if done else program


def quantized(editor: Editor, table: Node, ctx: PassContext) -> Node:
    """The node of the int8 form of a weight: its own, unless something reads it that is neither linear nor embedding."""
    name = str(table.target)
    form = Encoded(editor.weights[name], Integer(8), round_rows)
    others = [user for user in table.users if user.target not in (ops.linear, ops.embedding)]
    if others:
        ctx.note(f"'{name}' is also read by {others[0].name}, for which it stays as it is beside its int8 form")
        return editor.weight(form, f"{name}.int8")
    sharing = [user for user in table.users if user.target is ops.embedding]
    if sharing:
        ctx.note(f"'{name}' is also the table of {sharing[0].name}, which now reads int8")
    editor.set_weight(name, form)
    return table


def names_of(name: str, weight: Weight) -> list[str]:
    """The name of a weight and those of the weights that were merged into it."""
    found = [name]
    if isinstance(weight, Concatenated):
        for inner, piece in zip(weight.names, weight.pieces, strict=False):
            found += names_of(inner, piece)
    return found


def check_patterns(patterns: tuple[str, ...], weights: Mapping[str, Weight]) -> None:
    """Raise PipelineError for a pattern that no weight's name matches: it is misspelt."""
    names = [name for own, weight in weights.items() for name in names_of(own, weight)]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern.replace("*", ""), names, n=3, cutoff=0.3) or names[:3]
            raise PipelineError(f"option 'skip': '{pattern}' matches no weight; there are {', '.join(near)} among others")
