"""What can be done around every pass: verify, compare numbers, dump."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.fx import Node

from llmc.errors import InputError, PipelineError, VerificationError
from llmc.ir.program import Program, type_of
from llmc.pipeline.record import PassRecord

COMPARE_TOKENS = 16


class Verify:
    """Prove the rules of the dialect after every pass."""

    def captured(self, program: Program) -> None:
        program.verify()

    def finished(self, key: str, before: Program, after: Program, record: PassRecord) -> None:
        try:
            after.verify()
        except VerificationError as error:
            raise VerificationError(f"after pass '{key}': {error}") from error


def example_ids(program: Program, count: int = COMPARE_TOKENS, seed: int = 0) -> Tensor:
    """Random ids int64 `[count]` that the program's vocabulary has; fewer where a table of positions is shorter."""
    sizes: dict[str, list[int]] = {"input_ids": [], "position": []}
    for node in program.find("embedding"):
        index, table = node.args
        if isinstance(index, Node) and isinstance(table, Node) and index.target in program.inputs:
            sizes[str(index.target)].append(int(type_of(table).shape[0]))
    vocabulary = min(sizes["input_ids"], default=2)
    count = min([count, *sizes["position"]])
    return torch.randint(0, vocabulary, (count,), generator=torch.Generator().manual_seed(seed))


def outputs_of(program: Program, ids: Tensor) -> dict[str, Tensor]:
    """The outputs by name for one sequence, by the reference semantics in float32."""
    with torch.no_grad():
        return program.as_module()(ids)


def relative_error(values: Tensor, reference: Tensor) -> float:
    """Norm of the difference over the norm of the reference; 0 if both are zero."""
    values, reference = values.float(), reference.float()
    return float((values - reference).norm() / reference.norm().clamp_min(torch.finfo(torch.float32).tiny))


def output_error(values: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """The largest relative error of any output; nan if one is nan, inf if they differ in names or shapes."""
    if {name: value.shape for name, value in values.items()} != {name: value.shape for name, value in reference.items()}:
        return math.inf
    errors = [relative_error(values[name], reference[name]) for name in reference]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


class Compare:
    """Measure how much each pass changes the outputs on random ids; more than `tolerance` is an error."""

    def __init__(self, tolerance: float | None = None) -> None:
        self.tolerance = tolerance

    def captured(self, program: Program) -> None:
        self._ids = example_ids(program)
        self._last = outputs_of(program, self._ids)

    def finished(self, key: str, before: Program, after: Program, record: PassRecord) -> None:
        if after is before:
            record.error = 0.0
            return
        values = outputs_of(after, self._ids)
        record.error = output_error(values, self._last)
        self._last = values
        if self.tolerance is not None and not record.error <= self.tolerance:
            raise PipelineError(f"pass '{key}' changes the outputs by {record.error:.2e}, more than {self.tolerance:.2e}")


class Dump:
    """Write the program before the first and after every pass into numbered files of a folder."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def captured(self, program: Program) -> None:
        self._records: list[PassRecord] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot make this folder for the dump: {error.strerror}") from error
        (self.folder / "00-captured.txt").write_text(str(program) + "\n")

    def finished(self, key: str, before: Program, after: Program, record: PassRecord) -> None:
        self._records.append(record)
        safe = re.sub(r"[^\w.#-]", "-", key)  # a plugin may name its pass as it likes
        (self.folder / f"{len(self._records):02}-{safe}.txt").write_text(str(after) + "\n")
        records = [item.to_json() for item in self._records]
        (self.folder / "records.json").write_text(json.dumps(records, indent=1) + "\n")
