"""Cases of one kind as one program with an output for each, which spares whoever compiles most of the work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmc.conformance.forms import CACHE_BLOCKS, Logits, chunked_all, relative_error, same_rows
from llmc.conformance.programs import Make, build, build_all, exact_all, some_ids
from llmc.conformance.subject import Subject
from llmc.errors import LLMCError
from llmc.runtime.contract import Executable

TOKENS = 39
MOST = 40
"""Cases of a program: compilers take more than twice as long for twice as many."""


@dataclass(frozen=True)
class Found:
    """What a backend makes of a case: all tokens at once on two threads, by thirteen on one; and the reference in float64."""

    executable: Executable
    values: Logits
    by_thirteen: Logits
    exact: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Of the values, relative to the reference."""
        return relative_error(self.values, self.exact)

    def same_by_thirteen(self, *tolerance: float) -> bool:
        """Whether rows are the same in other company (`same_rows`)."""
        return same_rows(self.executable, self.by_thirteen, self.values, *tolerance)


def parts(cases: Mapping[Any, Make]) -> Iterator[dict[Any, Make]]:
    """Cases by as many as one program has."""
    names = list(cases)
    for start in range(0, len(names), MOST):
        yield {name: cases[name] for name in names[start : start + MOST]}


def lower_together(subject: Subject, kind: str, cases: Mapping[Any, Make]) -> Executable | None:
    """Some cases of a kind as one executable; None if the backend refuses one of them, or fails."""
    try:
        return subject.lower((kind, "together", *cases), lambda: build_all(_outputs(cases)))
    except LLMCError:
        return None


def find(subject: Subject, kind: str, cases: Mapping[Any, Make], case: Any) -> Found:
    """The result of one case. Raises UnsupportedError if the backend refuses it."""
    part = next(part for part in parts(cases) if case in part)
    executable = lower_together(subject, kind, part)
    if executable is not None:
        return _found(executable, _outputs(part))[_output(case)]
    alone = subject.lower((kind, case), lambda: build(cases[case]))
    return _found(alone, {"logits": cases[case]})["logits"]


def _outputs(cases: Mapping[Any, Make]) -> dict[str, Make]:
    return {_output(case): make for case, make in cases.items()}


def _output(case: Any) -> str:
    return "-".join(case) if isinstance(case, tuple) else case


_made: dict[Executable, dict[str, Found]] = {}


def _found(executable: Executable, makes: Mapping[str, Make]) -> dict[str, Found]:
    if executable not in _made:
        ids = some_ids(TOKENS)
        values = chunked_all(executable.context(CACHE_BLOCKS, threads=2), ids, TOKENS)
        parts = chunked_all(executable.context(CACHE_BLOCKS, threads=1), ids, 13)
        reference = exact_all(build_all(makes), ids)
        _made[executable] = {name: Found(executable, values[name], parts[name], reference[name]) for name in makes}
    return _made[executable]
