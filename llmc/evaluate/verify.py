"""A backend beside the reference, op by op: which op is the first that computes something else, where it is from, who made it.

Every op is an island (`llmc.evaluate.islands`): it is given the reference's values, so that its error is its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
from torch.fx import Node

from llmc.errors import InputError
from llmc.evaluate.islands import Values, inside, islands, reference, run, worst
from llmc.ir.program import Program, origin_of, type_of
from llmc.ir.segment import segment
from llmc.ir.types import INPUTS, Origin
from llmc.runtime.contract import Backend, Executable
from llmc.runtime.generate import check_prompts
from llmc.runtime.lowering import lower

if TYPE_CHECKING:
    from llmc.runtime.model import CompiledModel

TOKENS = 40
"""How many ids are tried if none are given: more than a block of the cache."""

TOLERANCE, ROUNDED = 1e-4, 1e-2
"""Of an op in float32; and where activations are rounded, when a last bit decides which way."""

WHOLE, WHOLE_ROUNDED = 1e-3, 5e-2
"""Of the outputs of the whole model, by the norm of the difference: to them the errors of all ops add up."""


@dataclass(frozen=True)
class Check:
    """An op. error: the largest difference over the largest magnitude of the reference; infinite where only one is a number."""

    node: str
    op: str
    origin: Origin
    error: float
    tolerance: float

    @property
    def diverges(self) -> bool:
        return not self.error <= self.tolerance

    def __str__(self) -> str:
        made = f", made by pass {self.origin.passes[-1]}" if self.origin.passes else ""
        where = f" of {self.origin.module}" if self.origin.module else ""
        line = f" ({self.origin.source})" if self.origin.source else ""
        return f"{self.node} = {self.op}{where}{line}{made}: error {self.error:.1e}, {self.tolerance:.0e} is allowed"


@dataclass(frozen=True)
class Verification:
    """What `verify` found. ops: in the program's order. outputs: error of each output of the model as it runs, by name.

    remark: what to make of it if the outputs diverge and no op does.
    """

    backend: str
    tokens: int
    ops: list[Check]
    outputs: dict[str, float]
    tolerance: float
    remark: str = ""

    @property
    def first(self) -> Check | None:
        """The first op that diverges."""
        return next((check for check in self.ops if check.diverges), None)

    @property
    def agrees(self) -> bool:
        """Whether no op diverges, nor any output."""
        return self.first is None and all(error <= self.tolerance for error in self.outputs.values())

    def worst(self) -> dict[str, Check]:
        """The check with the largest error, by op."""
        found: dict[str, Check] = {}
        for check in self.ops:
            if check.op not in found or not check.error <= found[check.op].error:
                found[check.op] = check
        return found


def verify(model: CompiledModel, ids: Sequence[int] | None = None, backend: Backend | None = None) -> Verification:
    """Compare a model's backend with the reference, on token ids (pseudo-random by default).

    backend: another than the model's own; the program is then lowered for it. Raises InputError for ids that the model cannot
    take, ArtifactError if the program has to be read and is damaged, UnsupportedError or ToolchainError as `lower` does.
    """
    from llmc.plugins.registry import default

    info, program = model.info, model.program
    if "input_ids" not in program.inputs or not program.inputs.keys() <= INPUTS.keys():
        raise InputError(f"only programs that read {' and '.join(INPUTS)} can be verified, not {', '.join(program.inputs)}")
    count = min(TOKENS, info.max_context)
    given = np.random.default_rng(0).integers(0, info.vocab_size, count).tolist() if ids is None else ids
    [tokens] = check_prompts([given], info.vocab_size, info.max_context)
    name = info.backend if backend is None else backend.name
    executable = model.executable
    if backend is None:
        backend = default().backend(name)
        backend = backend.for_target(executable.target) if executable.target else backend
    else:
        executable = lower(backend, name, program).executable
    values = reference(program, tokens)
    separated = islands(program)
    known = {node.name: values[node.name] for node in program.nodes}
    given_values = {inside(n): value for n, value in known.items() if inside(n) in separated.inputs}
    found = run(lower(backend, name, separated).executable, tokens, given_values)
    checks = [
        Check(node.name, node.target.name, origin_of(node), worst(found, node.name, values[node.name]), tolerance(node))  # type: ignore[union-attr]
        for node in program.nodes
        if node.name in found[0]
    ]
    rounded = any(check.tolerance > TOLERANCE for check in checks)
    outputs = compare(program, run(executable, tokens), values)
    report = Verification(name, len(tokens), checks, outputs, WHOLE_ROUNDED if rounded else WHOLE)
    if report.agrees or report.first:
        return report
    return dataclasses.replace(report, remark=_explain(report, program, backend, executable, tokens, values))


def _explain(
    report: Verification, program: Program, backend: Backend, executable: Executable, tokens: list[int], values: Values
) -> str:
    """Each op alone is right, and the whole is not."""
    name = report.backend
    again = lower(backend, name, program).executable
    if all(value <= report.tolerance for value in compare(program, run(again, tokens), values).values()):
        edit = first_edit(executable.sources(), again.sources())
        return f"what runs is not what its program is lowered to: {edit or 'the library is not that of its sources'}"
    shown = {node.name: node for node in program.nodes if type_of(node).rows == "T"}
    found = run(lower(backend, name, segment(program, {}, shown)).executable, tokens)
    wrong = next((node for n, node in shown.items() if not worst(found, n, values[n]) <= report.tolerance), None)
    where = f"the first wrong value is {wrong.name} of {origin_of(wrong)}" if wrong else "no value before the outputs is wrong"
    return f"each op alone is right, and all together are not (memory shared too early, a barrier missing): {where}"


def first_edit(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Where sources first differ from what they should be: file, line, and the comment above, which says what it is part of."""
    for file, text in expected.items():
        lines, others = found.get(file, "").splitlines(), text.splitlines()
        at = next((i for i, (a, b) in enumerate(zip_longest(lines, others)) if a != b), None)
        if at is not None:
            above = [line.strip() for line in lines[: at + 1] if line.lstrip().startswith("//")]
            return f"{file}, line {at + 1}, was edited" + (f", in '{above[-1]}'" if above else "")
    return ""


def tolerance(node: Node) -> float:
    """The error that an op may have."""
    rounds = any(node.kwargs.get(attribute, "float32") != "float32" for attribute in ("activations", "to"))
    return ROUNDED if rounds else TOLERANCE


def compare(program: Program, found: Sequence[Values], values: Values) -> dict[str, float]:
    """Of each output of a program, the norm of its difference over its norm."""
    outputs = zip(program.outputs, program.results, strict=True)
    return {name: worst(found, name, values[node.name], np.linalg.norm) for name, node in outputs}
