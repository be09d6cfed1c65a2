"""A pipeline: a list of passes to print, slice and run."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from llmc.errors import LLMCError, PipelineError
from llmc.ir.identity import identical
from llmc.ir.program import Program
from llmc.pipeline.base import Pass, PassContext
from llmc.pipeline.ordering import order
from llmc.pipeline.record import PassRecord
from llmc.plugins.registry import Registry
from llmc.runtime import progress


class Instrument(Protocol):
    """Something done around every pass."""

    def captured(self, program: Program) -> None:
        """The pipeline starts with this program."""

    def finished(self, key: str, before: Program, after: Program, record: PassRecord) -> None:
        """A pass has run. May raise LLMCError to stop the pipeline, and may add to the record."""


@dataclass(frozen=True)
class Step:
    """A pass in a pipeline. `asked`: the user named it, so that it must match something. `notes`: for its record."""

    key: str
    item: Pass
    asked: bool = False
    notes: tuple[str, ...] = ()


@dataclass
class Result:
    """What a pipeline gave: the program, a record for each pass, and the program after each (they share their weights)."""

    program: Program
    records: list[PassRecord] = field(default_factory=list)
    snapshots: dict[str, Program] = field(default_factory=dict)
    moves: tuple[str, ...] = ()


class Pipeline(Sequence[Step]):
    """Passes in the order in which they run; `moves` says what that order changed of the one asked for."""

    def __init__(self, steps: Sequence[Step], moves: Sequence[str] = ()) -> None:
        self.steps, self.moves = tuple(steps), tuple(moves)

    @staticmethod
    def of(recipe: Any, asked: Any, registry: Registry) -> Pipeline:
        """Passes of a recipe and those the user asked for besides: names, `{"name": ..., option: ...}`, classes, instances.

        Asking by name for a pass that the recipe has asks for that one, with the options given, if any; a class or an instance
        is one more. A single pass need not be in a list. Raises PluginError for unknown names, PipelineError for bad options or
        orders that contradict each other.
        """
        steps: list[Step] = []
        for spec, wanted in [*((s, False) for s in _listed(recipe)), *((s, True) for s in _listed(asked))]:
            item = _instance(spec, registry)
            same = [i for i, step in enumerate(steps) if step.item.name == item.name]
            known = next((i for i in same if not steps[i].asked), None) if wanted and isinstance(spec, str | dict) else None
            if known is not None:
                given = isinstance(spec, dict) and len(spec) > 1
                steps[known] = replace(steps[known], item=item if given else steps[known].item, asked=True)
            else:
                steps.append(Step(item.name if not same else f"{item.name}#{len(same) + 1}", item, wanted))
        ordered, moves = order([(step.key, step.item) for step in steps])
        names = {entry.name for entry in registry.entries("passes")}.union(*(step.item.capabilities for step in steps))
        by_key = {step.key: replace(step, notes=_misspelt(step.item, names)) for step in steps}
        return Pipeline([by_key[key] for key, _ in ordered], moves)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __getitem__(self, index: Any) -> Any:
        return Pipeline(self.steps[index]) if isinstance(index, slice) else self.steps[index]

    def __str__(self) -> str:
        rows = [("#", "pass", "options", "")]
        for i, step in enumerate(self.steps, 1):
            rows.append((str(i), step.key, step.item.options, "asked for" if step.asked else ""))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        notes = [f"{step.key}: {note}" for step in self.steps for note in step.notes]
        return "\n".join([*lines, *self.moves, *notes])

    def run(self, program: Program, registry: Registry, instruments: Sequence[Instrument] = ()) -> Result:
        """Run every pass.

        Raises PipelineError naming the pass that failed, or that was asked for and matched nothing.
        """
        result = Result(program, moves=self.moves)
        for instrument in instruments:
            instrument.captured(program)
        for done, step in enumerate(self.steps, 1):
            before = result.program
            progress.report(f"pass {step.key}", done, len(self))
            registry.notify("llmc_pass_started", name=step.key, program=before)
            after, record = _run_step(step, before)
            for instrument in instruments:
                instrument.finished(step.key, before, after, record)
            registry.notify("llmc_pass_finished", name=step.key, record=record)
            result.program = result.snapshots[step.key] = after
            result.records.append(record)
        return result


def _listed(specs: Any) -> list[Any]:
    """Passes as a list; one alone is a list of one."""
    if specs is None:
        return []
    if isinstance(specs, str | dict | type | Pass):
        return [specs]
    if not isinstance(specs, Iterable):
        raise PipelineError(f"passes are given as a list, not as {specs!r}")
    return list(specs)


def _misspelt(item: Pass, known: set[str]) -> tuple[str, ...]:
    """A note for each name in `before` and `after` that is close to a known one; others may be of plugins not installed."""
    found = []
    for relation in ("before", "after"):
        for name in sorted(set(getattr(item, relation)) - known):
            near = difflib.get_close_matches(name, sorted(known), n=1)
            if near:
                found.append(f"its `{relation}` names '{name}', which no pass is called or provides; did you mean '{near[0]}'?")
    return tuple(found)


def _instance(spec: Any, registry: Registry) -> Pass:
    if isinstance(spec, Pass):
        return spec
    if isinstance(spec, type) and issubclass(spec, Pass):
        return spec()
    if isinstance(spec, str):
        spec = {"name": spec}
    if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
        raise PipelineError(f"a pass is given by its name, a dict with a 'name', a class or an instance, not by {spec!r}")
    options = {key: value for key, value in spec.items() if key != "name"}
    found = registry.pass_class(spec["name"])
    if not (isinstance(found, type) and issubclass(found, Pass) and found.name == spec["name"]):
        raise PipelineError(f"what is registered as pass '{spec['name']}', {found!r}, is no Pass of that name")
    return found(**options)


def _run_step(step: Step, program: Program) -> tuple[Program, PassRecord]:
    context = PassContext(step.item.name, notes=list(step.notes))
    began = time.perf_counter()
    try:
        after = step.item.run(program, context)
    except LLMCError as error:
        raise type(error)(f"pass '{step.key}': {error}") from error
    except Exception as error:  # a pass may be anybody's
        raise PipelineError(f"pass '{step.key}' failed: {type(error).__name__}: {error}") from error
    seconds = time.perf_counter() - began
    if not isinstance(after, Program):
        raise PipelineError(f"pass '{step.key}' returned {type(after).__name__}, not a Program")
    if step.asked and not context.matches and identical(program, after):
        reasons = "; ".join(f"{where}: {why}" for where, why in context.refusals[:3])
        raise PipelineError(f"pass '{step.key}' was asked for but matched nothing" + (f": {reasons}" if reasons else ""))
    record = PassRecord(
        key=step.key,
        seconds=seconds,
        matched=len(context.matches),
        refused=context.refusals,
        notes=context.notes,
        nodes_before=len(program.nodes),
        nodes_after=len(after.nodes),
        weight_bytes_before=program.weight_bytes(),
        weight_bytes_after=after.weight_bytes(),
    )
    return after, record
