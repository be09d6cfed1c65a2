"""Quantize the weights of linear layers, experts and tables, and round what they are multiplied with as it comes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from functools import partial
from typing import Literal

from pydantic import Field, model_validator
from torch.fx import Node

from llmc.errors import PipelineError
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.formats import Dense, Integer
from llmc.ir.program import Program, origin_of
from llmc.ir.spill import Spilled, spill
from llmc.ir.weights import Concatenated, Encoded, Weight
from llmc.passes.quantization.grouped import coarse_groups, round_groups
from llmc.passes.quantization.products import PRODUCTS, READERS, matrix, read
from llmc.passes.quantization.rounding import round_rows
from llmc.pipeline.base import Pass, PassContext


class Quantize(Pass):
    """Weights to int8 with a scale for each row, or int4 with one for each group of columns; activations to int8 at run time.

    Round to nearest, no calibration: W8A8 with dynamic activations as in Dettmers et al. 2022 without the outliers; four bits
    with the scale of the least squared error (Choukroun et al. 2019).

    Before:  linear(x, W: f32)
    After:   linear(x, W: int4g32, activations="int8")

    A table that an embedding shares with a linear layer is quantized for both; for any other reader the weight stays as it is
    beside its quantized form. `only` and `skip` name weights by patterns such as `lm_head.*`; where weights were merged, the
    name of each stands for the whole. A second `quantize` leaves alone what is quantized: for a head in int8 and all else in
    int4, list `{"name": "quantize", "bits": 8, "only": ["lm_head.*"]}` and then `{"name": "quantize", "bits": 4}`.
    """

    name = "quantize"
    provides = frozenset({"quantized"})

    class Config(Pass.Config):
        """Options."""

        bits: Literal[4, 8] = Field(8, description="bits of a weight")
        group_size: Literal[32, 64, 128] | None = Field(None, description="columns that share a scale, of 4 bits [32]")
        zero_point: bool = Field(False, description="groups of 4 bits that are not symmetric about zero")
        activations: Literal["int8", "float32"] = Field("int8", description="what the input of a linear layer is rounded to")
        embeddings: bool = Field(False, description="quantize tables that are looked up by token ids and nothing else, too")
        only: tuple[str, ...] = Field((), description="patterns of weight names to quantize; all others stay as they are")
        skip: tuple[str, ...] = Field((), description="patterns of weight names to leave as they are")

        @model_validator(mode="after")
        def _eight_bits_have_no_groups(self) -> Quantize.Config:
            if self.bits == 8 and (self.group_size or self.zero_point):
                raise ValueError("group_size and zero_point are for 4 bits; 8 bits have one scale for each row")
            return self

        @property
        def format(self) -> Integer:
            """The format that these options stand for."""
            return Integer(8) if self.bits == 8 else Integer(4, self.group_size or 32, self.zero_point)

    def run(self, program: Program, ctx: PassContext) -> Program:
        for option in ("only", "skip"):
            check_patterns(option, getattr(self.config, option), program.weights)
        editor = program.edit(self.name)
        wanted: dict[str, list[Node]] = {}
        for node in readers(editor, self.config.embeddings):
            name = str(matrix(node).target)
            reason = self.obstacle(name, program.weights[name])
            if reason is None:
                wanted.setdefault(name, []).append(node)
            else:
                ctx.refused(origin_of(node), reason)
        made = self.encoded({name: program.weights[name] for name in wanted}, wanted, ctx)
        for name, weight in made.items():
            table = put(editor, name, weight, ctx)
            for node in wanted[name]:
                ctx.matched(origin_of(node))
                read(editor, node, table, self.config.activations)
        return editor.finish() if made else program

    def obstacle(self, name: str, weight: Weight) -> str | None:
        """Why a weight is left alone, or None."""
        names = names_of(name, weight)
        skipped = next((n for n in names if any(fnmatch(n, p) for p in self.config.skip)), None)
        if skipped is not None:
            return f"'{name}'{'' if skipped == name else f', which {skipped!r} is part of,'} is skipped by the options"
        if self.config.only and not any(fnmatch(n, p) for n in names for p in self.config.only):
            return f"'{name}' is not among what the options name"
        return None if isinstance(weight.format, Dense) else f"'{name}' is already {weight.format}"

    def encoded(self, weights: Mapping[str, Weight], nodes: Mapping[str, list[Node]], ctx: PassContext) -> dict[str, Weight]:
        """The quantized forms, evaluated once into a mapped file; those that cannot be made are reported and left out."""
        form = self.config.format
        encode = round_rows if form.bits == 8 else partial(round_groups, form=form)
        made = {}
        for name, weight in weights.items():
            try:
                done = spill({name: Encoded(weight, form, encode)})[name]
                if form.group:
                    check_scales(name, done, ctx)
                made[name] = done
            except PipelineError as error:
                for node in nodes[name]:
                    ctx.refused(origin_of(node), f"'{name}': {error}")
        return made


def readers(editor: Editor, embeddings: bool) -> Iterator[Node]:
    """The products, and if wanted the embedding nodes by token ids whose table no product reads."""
    products = [node for node in editor.nodes if node.target in PRODUCTS]
    yield from products
    tables = {matrix(node) for node in products}
    for node in editor.nodes if embeddings else ():
        if node.target is ops.embedding and node.args[0].target == "input_ids" and node.args[1] not in tables:  # type: ignore[union-attr]
            yield node


def check_scales(name: str, weight: Weight, ctx: PassContext) -> None:
    """Note groups whose scales float16 holds coarsely. Raises PipelineError if there are no others."""
    coarse, all_groups = coarse_groups(weight.parts()["scale"])
    what = f"{coarse} of {all_groups} groups have weights too small for scales in float16"
    if 0 < coarse == all_groups:
        raise PipelineError(what)
    if coarse:
        ctx.note(f"'{name}': {what}, which hold them coarsely")


def put(editor: Editor, name: str, weight: Weight, ctx: PassContext) -> Node:
    """The node of the quantized form of a weight: its own, unless something reads it that is neither product nor embedding."""
    table = editor.named_weight(name)
    others = [user for user in table.users if user.target not in READERS]
    if others:
        ctx.note(f"'{name}' is also read by {others[0].name}, for which it stays as it is beside its {weight.format} form")
        return editor.weight(weight, f"{name}.{weight.format}")
    sharing = [user for user in table.users if user.target is ops.embedding]
    if sharing and len(sharing) < len(table.users):
        ctx.note(f"'{name}' is also the table of {sharing[0].name}, which now reads {weight.format}")
    editor.set_weight(name, weight)
    return table


def names_of(name: str, weight: Weight) -> list[str]:
    """The name of a weight and those of the weights that were merged into it."""
    found = [name]
    while isinstance(weight, Encoded | Spilled):
        weight = weight.base
    if isinstance(weight, Concatenated):
        for inner, piece in zip(weight.names, weight.pieces, strict=False):
            found += names_of(inner, piece)
    return found


def check_patterns(option: str, patterns: Iterable[str], weights: Mapping[str, Weight]) -> None:
    """Raise PipelineError for a pattern that no weight's name matches: it is misspelt."""
    names = [name for own, weight in weights.items() for name in names_of(own, weight)]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern.replace("*", ""), names, n=3, cutoff=0.3) or names[:3]
            raise PipelineError(f"option '{option}': '{pattern}' matches no weight; there are {', '.join(near)} among others")
