"""Two thin matrices in place of one."""

from __future__ import annotations

from fnmatch import fnmatch

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.fx import Node

from llmc.errors import PipelineError
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.formats import Dense
from llmc.ir.program import Program, origin_of
from llmc.ir.weights import Weight
from llmc.pipeline.base import Pass, PassContext
from llmc_lowrank.factors import Factor, Factorised
from llmc_lowrank.spectra import Candidate, energies, gram, rank_keeping, ranks_within

ENERGY = 0.95
"""What is kept of a weight if nobody says."""


class LowRank(Pass):
    """The best approximation of each weight by two thinner ones (Eckart and Young 1936), wherever these take fewer bytes.

    Before:  linear(x, W [N, K], b)
    After:   linear(linear(x, B [rank, K]), A [N, rank], b)

    The rank is the smallest that keeps `energy`, the share of the squared singular values; or, with a `budget`, ranks are such
    that all the matrices together keep the most within that share of their elements. Counterparts in layers that repeat get one
    rank, by their mean spectrum, so that layers stay alike.
    """

    name = "low-rank"
    before = frozenset({"quantize", "fuse-gated-linear"})
    after = frozenset({"canonicalize", "fuse-qkv", "fuse-gate-up"})

    class Config(Pass.Config):
        """Options: one of the first two."""

        energy: float | None = Field(
            None, gt=0, le=1, description="share of the squared singular values to keep; 0.95 if no budget"
        )
        budget: float | None = Field(None, gt=0, lt=1, description="share of the elements of all factorised matrices to keep")
        skip: tuple[str, ...] = Field((), description="patterns of weight names to leave as they are")

        @model_validator(mode="after")
        def one_of_them(self) -> LowRank.Config:
            """Not both."""
            if self.energy is not None and self.budget is not None:
                raise ValueError("give energy or budget, not both")
            return self

    def run(self, program: Program, ctx: PassContext) -> Program:
        readers = self.candidates(program, ctx)
        groups = counterparts(program, list(readers))
        spectra = {name: spectrum(program.weights[name], name, nodes[0]) for name, nodes in readers.items()}
        editor = program.edit(self.name)
        for names, rank in zip(groups, self.ranks(program, groups, spectra), strict=True):
            for name in names:
                weight, kept = program.weights[name], float(spectra[name][:rank].sum())
                factorised = Factorised(weight, rank)
                pair = Factor(factorised, first=True), Factor(factorised, first=False)
                size = sum(factor.bytes for factor in pair)
                facts = f"rank {rank} of {len(spectra[name])} keeps {kept:.2%} of the energy of '{name}' in {size / 1e6:.3f} MB"
                if size >= weight.bytes:
                    for node in readers[name]:
                        ctx.refused(origin_of(node), f"{facts}, which is no less than {weight.bytes / 1e6:.3f}")
                    continue
                ctx.note(f"{facts} instead of {weight.bytes / 1e6:.3f}")
                replace(editor, name, pair, readers[name])
                for node in readers[name]:
                    ctx.matched(origin_of(node))
        return editor.finish() if ctx.matches else program

    def candidates(self, program: Program, ctx: PassContext) -> dict[str, list[Node]]:
        """The linear nodes by the name of their weight, but for those that must stay as they are."""
        readers: dict[str, list[Node]] = {}
        for node in program.find("linear"):
            readers.setdefault(str(node.all_input_nodes[1].target), []).append(node)
        for pattern in self.config.skip:
            if not any(fnmatch(name, pattern) for name in readers):
                raise PipelineError(f"option 'skip': '{pattern}' matches no weight of a linear layer")
        for name, nodes in list(readers.items()):
            reason = self.obstacle(name, program.weights[name], nodes)
            if reason:
                ctx.refused(origin_of(nodes[0]), reason)
                del readers[name]
        return readers

    def obstacle(self, name: str, weight: Weight, nodes: list[Node]) -> str | None:
        """Why a weight must stay as it is, or None."""
        if any(fnmatch(name, pattern) for pattern in self.config.skip):
            return f"'{name}' is skipped by the options"
        if not isinstance(weight.format, Dense):
            return f"'{name}' is {weight.format} already; let this pass run before the one that quantizes"
        if any(node.kwargs.get("activations", "float32") != "float32" for node in nodes):
            return f"what '{name}' multiplies is rounded already"
        others = [user for user in nodes[0].all_input_nodes[1].users if user.target is not ops.linear]
        return f"'{name}' is also read by '{others[0].name}'" if others else None

    def ranks(self, program: Program, groups: list[list[str]], spectra: dict[str, Tensor]) -> list[int]:
        """Of each group."""
        means = [torch.stack([spectra[name] for name in names]).mean(0) for names in groups]
        if self.config.budget is None:
            return [rank_keeping(mean, self.config.energy or ENERGY) for mean in means]
        sizes = [[size_of(program.weights[name]) for name in names] for names in groups]
        candidates = [
            Candidate(mean * len(size), sum(n + k for n, k in size), sum(n * k for n, k in size))
            for mean, size in zip(means, sizes, strict=True)
        ]
        return ranks_within(candidates, self.config.budget)


def size_of(weight: Weight) -> tuple[int, int]:
    """N and K."""
    count, size = weight.shape
    return count, size


def spectrum(weight: Weight, name: str, reader: Node) -> Tensor:
    """`energies` of a weight. Raises PipelineError, naming the module that reads it, if it holds what is no finite number."""
    products = gram(weight.evaluate, size_of(weight))
    if not bool(products.isfinite().all()):
        raise PipelineError(f"'{name}' of module '{origin_of(reader).module}' holds NaN or infinity, so it has no factors")
    return energies(products)


def counterparts(program: Program, names: list[str]) -> list[list[str]]:
    """The weights in groups: those that take each other's places in layers that repeat, and each other one alone."""
    place: dict[str, int] = {}
    for layer in program.blocks.layers if program.blocks else ():
        for index, node in enumerate(layer):
            if node.target is ops.linear:
                place.setdefault(str(node.args[1].target), index)  # type: ignore[union-attr]
    groups: dict[object, list[str]] = {}
    for name in names:
        groups.setdefault(place.get(name, name), []).append(name)
    return list(groups.values())


def replace(editor: Editor, name: str, pair: tuple[Factor, Factor], nodes: list[Node]) -> None:
    """Let linear nodes multiply with the two factors, one after the other."""
    right, left = (editor.weight(factor, f"{name}.{part}") for factor, part in zip(pair, ("right", "left"), strict=True))
    for node in map(editor.copy_of, nodes):
        with editor.before(node):
            inner = editor.op(ops.linear, node.args[0], right)
            editor.replace(node, editor.op(ops.linear, inner, left, *node.args[2:]))
        editor.graph.erase_node(node)
