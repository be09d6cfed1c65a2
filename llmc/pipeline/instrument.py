"""What can be done around every pass: verify, compare numbers, dump."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from llmc.errors import PipelineError, VerificationError
from llmc.ir.program import Program, type_of
from llmc.pipeline.base import PassRecord

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


def example_ids(program: Program, count: int = COMPARE_TOKENS, seed: int = 0) -> torch.Tensor:
    """Random ids int64 `[count]` that the program's vocabulary has."""
    tables = [node.args[1] for node in program.find("embedding") if node.args[0].target == "input_ids"]  # type: ignore[union-attr]
    vocabulary = min((int(type_of(table).shape[0]) for table in tables), default=2)
    return torch.randint(0, vocabulary, (count,), generator=torch.Generator().manual_seed(seed))


def outputs_of(program: Program, ids: torch.Tensor) -> torch.Tensor:
    """All outputs for one sequence, flat, by the reference semantics."""
    with torch.no_grad():
        return torch.cat([value.flatten() for value in program.as_module()(ids).values()])


def relative_error(values: torch.Tensor, reference: torch.Tensor) -> float:
    """Norm of the difference over the norm of the reference."""
    return float((values - reference).norm() / reference.norm().clamp_min(torch.finfo(torch.float32).tiny))


class Compare:
    """Measure how much each pass changes the outputs on random ids; more than `tolerance` is an error."""

    def __init__(self, tolerance: float | None = None) -> None:
        self.tolerance = tolerance
        self._last: torch.Tensor | None = None
        self._ids: torch.Tensor | None = None

    def captured(self, program: Program) -> None:
        self._ids = example_ids(program)
        self._last = outputs_of(program, self._ids)

    def finished(self, key: str, before: Program, after: Program, record: PassRecord) -> None:
        assert self._ids is not None and self._last is not None
        if after is before:
            record.error = 0.0
            return
        values = outputs_of(after, self._ids)
        record.error = relative_error(values, self._last)
        self._last = values
        if self.tolerance is not None and not record.error <= self.tolerance:
            raise PipelineError(f"pass '{key}' changes the outputs by {record.error:.2e}, more than {self.tolerance:.2e}")


class Dump:
    """Write the program before the first and after every pass into numbered files of a folder."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._records: list[PassRecord] = []

    def captured(self, program: Program) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "00-captured.txt").write_text(str(program) + "\n")

    def finished(self, key: str, before: Program, after: Program, record: PassRecord) -> None:
        self._records.append(record)
        (self.folder / f"{len(self._records):02}-{key.replace('#', '-')}.txt").write_text(str(after) + "\n")
        records = [item.to_json() for item in self._records]
        (self.folder / "records.json").write_text(json.dumps(records, indent=1) + "\n")
