"""A page on what backends run and what they refuse, found by lowering every case of the suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from typing import Any

from llmc.conformance.cases import CASES, op_of
from llmc.conformance.formats import FORMATS, WEIGHTS
from llmc.conformance.programs import Make, build, every_output
from llmc.conformance.scores import SCORES
from llmc.conformance.subject import Subject, subject
from llmc.conformance.together import lower_together, parts
from llmc.conformance.whole import WHOLE
from llmc.errors import UnsupportedError
from llmc.ir.op import OPS
from llmc.ir.ops import FUSED

Key = tuple[str, ...]
"""A case: its kind (op, score, whole or weight) and name."""

FAMILIES = ("pointwise", "reductions", "views", "contractions", "norms", "attention", "experts", "pooling")
"""Modules of `llmc.ir.ops`, in the order of the table."""

HEAD = """# Backends

What each backend runs, found by lowering every case of the conformance suite. Made by

    {command}

and held up to date by a test. `llmc backends` lists what is installed, and what of it can run on this machine.

Every backend runs every op of the dialect; one that refuses anything fails the suite. Weights in a format that it does not read
are handed over as float32, which `explain()` tells. "The same bits" means that batch, chunking, row selection and the number of
threads change no bit of a row; elsewhere they change a row by at most 1e-5 of its size in float32.

"""
TAIL = """
## The suite

    pytest --pyargs llmc.conformance                                  every registered backend that can run here
    pytest --pyargs llmc.conformance --backend NAME                   one of them; repeatable
    pytest --pyargs llmc.conformance --backend my.module:MyBackend    one that is not registered
    python -m llmc.conformance --backend NAME                         this page for a backend

It comes with the extra `llmc[conformance]`. [Writing a backend](writing_a_backend.md) builds one that passes it.
"""

Refused = dict[str, dict[Key, str]]
"""Of each backend, what it says of each case that it refuses."""


def page(names: list[str]) -> str:
    """The page for some backends: markdown."""
    subjects = [subject(name) for name in names]
    refused: Refused = {tested.name: dict(refusals(tested)) for tested in subjects}
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]

    def row(title: str, cell: Callable[[Subject], str]) -> None:
        lines.append(f"| {title} | {' | '.join(map(cell, subjects))} |")

    row("rows in any company", lambda s: "the same bits" if s.lower("every-output", every_output).row_exact else "within 1e-5")
    for family in FAMILIES:
        members = [name for name, op in OPS.items() if op.__module__.endswith(family)]
        row(f"{family}: {', '.join(sorted(members))}", partial(_ops, members, refused))
    row("fused ops with code of their own", lambda s: _fused(s.backend.fused))
    for name in SCORES:
        row(f"attention: {name}", lambda s, name=name: _yes(("score", name) not in refused[s.name]))  # type: ignore[misc]
    for name in WHOLE:
        row(f"whole sequences: {name}", lambda s, name=name: _yes(("whole", name) not in refused[s.name]))  # type: ignore[misc]
    for format in FORMATS:
        row(f"weights in {format}", partial(_format, format, refused))
    command = "python -m llmc.conformance " + " ".join(f"--backend {name}" for name in names) + " > docs/backends.md"
    reasons = _reasons(subjects, refused)
    return "\n".join([HEAD.format(command=command), *lines, "", "## Refused, or not read", "", *reasons, TAIL])


def refusals(tested: Subject) -> Iterator[tuple[Key, str]]:
    """Each case that the backend refuses, by kind and name, and what it says."""
    kinds: list[tuple[str, Mapping[Any, Make]]] = [("op", CASES), ("score", SCORES), ("whole", WHOLE), ("weight", WEIGHTS)]
    for kind, cases in ((kind, part) for kind, every in kinds for part in parts(every)):
        if kind != "whole" and lower_together(tested, kind, cases):
            continue
        for name, make in cases.items():
            key = (kind, *name) if isinstance(name, tuple) else (kind, name)
            try:
                tested.lower(key, partial(build, make))
            except UnsupportedError as error:
                yield key, str(error)


def _yes(runs: bool) -> str:
    return "yes" if runs else "no"


def _ops(members: list[str], refused: Refused, tested: Subject) -> str:
    missing = sorted({op_of(key[1]) for key in refused[tested.name] if key[0] in ("op", "whole")} & set(members))
    return "all" if not missing else f"all but {', '.join(missing)}"


def _fused(names: Set[str]) -> str:
    missing = sorted(set(FUSED) - names)
    few = f"all but {', '.join(missing)}" if missing else "all"
    return few if len(missing) < len(names) else ", ".join(sorted(names)) or "none"


def _format(format: str, refused: Refused, tested: Subject) -> str:
    if format in tested.backend.lacks:
        return "as f32"
    uses = [use for use, name in WEIGHTS if name == format]
    missing = [use for use in uses if ("weight", use, format) in refused[tested.name]]
    return "yes" if not missing else f"not for {', '.join(missing)}"


def _reasons(subjects: list[Subject], refused: Refused) -> list[str]:
    lines = []
    for tested in subjects:
        lines += [f"- {tested.name}: {format} is not read: {reason}" for format, reason in tested.backend.lacks.items()]
        lines += [f"- {tested.name}: {' '.join(key[1:])}: {text}" for key, text in refused[tested.name].items()]
    return lines or ["Nothing."]
