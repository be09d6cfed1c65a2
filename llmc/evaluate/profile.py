"""Where the time of prefill and decode goes: each part of a step with its time, its work, and what the machine allows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmc.errors import InputError
from llmc.evaluate.work import NOTHING, Step, Work, works
from llmc.runtime.sequences import Sequences, blocks_for, split_steps

if TYPE_CHECKING:
    from llmc.ir.program import Program
    from llmc.runtime.contract import Context
    from llmc.runtime.model import CompiledModel
    from llmc.runtime.profile import Span

WAITING, OUTSIDE = "waiting", "outside"
"""What stands in the place of an op: threads wait for each other at barriers; all of a step that is not the threads' work."""


@dataclass(frozen=True)
class Part:
    """A span of a step, summed over the steps of a phase.

    op: the node's, WAITING or OUTSIDE. code: what runs. module: where the node comes from. layer: of `Program.blocks`, None
    outside of them. seconds: in the mean of the threads; slowest: of the slowest thread. work: what the node has to do, where
    its own work is done, else nothing; activation_bytes: of values that it reads and writes, mostly in caches.
    """

    node: str
    op: str
    code: str
    module: str
    layer: int | None
    calls: int
    seconds: float
    slowest: float
    work: Work
    activation_bytes: float


@dataclass(frozen=True)
class Phase:
    """What was measured of prefill or decode: `tokens` read after `past` positions, in `steps` steps.

    seconds: of the phase with time stamps, the mean of the middle half of the runs; the parts add up to it. plain: of the model
    as it runs, in turns with it, likewise. work: of all nodes.
    """

    name: str
    tokens: int
    past: int
    steps: int
    runs: int
    seconds: float
    plain: float
    parts: list[Part]
    work: Work

    @property
    def distortion(self) -> float:
        """How much longer it takes with time stamps, as a share."""
        return self.seconds / self.plain - 1


def profile(
    model: CompiledModel,
    prompt_tokens: int,
    new_tokens: int,
    runs: int,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[Phase]:
    """Prefill of a prompt of random ids, and decode of a token after it.

    A prompt is read `runs` times, and after each as many tokens as `new_tokens` are decoded, each at the same context. The
    model with time stamps and the model as it runs take turns; a first run of each does not count. Raises InputError if prompt
    and token do not fit the model's context, or for a model over whole sequences; UnsupportedError if the backend cannot tell.
    """
    from llmc.plugins.registry import default
    from llmc.runtime.lowering import decomposed

    if model.executable.whole_sequences:
        raise InputError("a profile is of prefill and decode; this model reads whole sequences and has neither")
    if prompt_tokens < 1 or new_tokens < 1 or runs < 1:
        raise InputError("a profile needs at least one token of a prompt, one new token and one run")
    if prompt_tokens + 1 > model.info.max_context:
        limit = model.info.max_context
        raise InputError(f"a token after {prompt_tokens} is beyond the model's context of {limit} positions")
    backend = default().backend(model.info.backend)
    program, _ = decomposed(backend, model.info.backend, model.program)
    executable = backend.profiled(program, model.executable)
    ids = np.random.default_rng(0).integers(0, model.info.vocab_size, prompt_tokens + 1).tolist()
    blocks, threads = blocks_for(prompt_tokens + 1), model.info.threads
    with ExitStack() as stack:
        plain, stamped = sides = [Side(each.context(blocks, threads), blocks) for each in (model.executable, executable)]
        for side in sides:
            stack.callback(side.context.close)
        for run in range(runs + 1):
            for side in sides:
                side.prefill(ids[:-1], counts=run > 0)
            for side in sides:
                for _ in range(new_tokens):
                    side.decode(ids[-1], counts=run > 0)
            progress(run, runs)
    chunks = [Step(stop - start, int(stop == prompt_tokens), start) for [(_, start, stop)] in split_steps([ids[:-1]])]
    phases = []
    for name, steps in (("prefill", chunks), ("decode", [Step(1, past=prompt_tokens)])):
        seconds, times = middle(stamped.samples[name])
        needed = [dict(works(program, model.executable.block_bytes, step)) for step in steps]
        work = {node.name: sum((each[node] for each in needed), NOTHING) for node in program.nodes}
        found = list(_parts(program, steps, work, executable.spans, times))
        outside = seconds - sum(part.seconds for part in found)
        found.append(Part("", OUTSIDE, "", "", None, len(steps), outside, outside, NOTHING, 0.0))
        phases.append(
            Phase(
                name=name,
                tokens=sum(step.tokens for step in steps),
                past=steps[0].past,
                steps=len(steps),
                runs=len(stamped.samples[name]),
                seconds=seconds,
                plain=middle(plain.samples[name])[0],
                parts=found,
                work=sum(work.values(), NOTHING),
            )
        )
    return phases


Sample = tuple[float, NDArray[np.float64]]
"""Seconds of a phase, and those `[threads, spans]` of the parts of its steps, if they were taken."""


class Side:
    """A context at work; `samples` of each phase."""

    def __init__(self, context: Context, blocks: int) -> None:
        self.context, self.sequences = context, Sequences(blocks)
        self.sequence = self.sequences.create()
        self.samples: dict[str, list[Sample]] = {"prefill": [], "decode": []}

    def prefill(self, ids: list[int], counts: bool) -> None:
        """Read a prompt, in steps as generation takes them."""
        self.sequences.truncate(self.sequence, 0)
        pieces = [ids[start:stop] for [(_, start, stop)] in split_steps([ids])]
        taken = [self._step(piece, last=index + 1 == len(pieces)) for index, piece in enumerate(pieces)]
        if counts:
            self.samples["prefill"].append((sum(s for s, _ in taken), sum(times for _, times in taken)))  # type: ignore[arg-type]

    def decode(self, token: int, counts: bool) -> None:
        """Read a token after the prompt, and forget it."""
        length = self.sequences.length(self.sequence)
        taken = self._step([token], last=True)
        self.sequences.truncate(self.sequence, length)
        if counts:
            self.samples["decode"].append(taken)

    def _step(self, ids: list[int], last: bool) -> Sample:
        batch = self.sequences.batch([(self.sequence, ids)], ["last" if last else "none"])
        began = perf_counter()
        for values in self.context.step(batch).values():
            np.asarray(values)
        seconds = perf_counter() - began
        return seconds, getattr(self.context, "times", np.zeros((1, 0)))


def middle(samples: list[Sample]) -> Sample:
    """The mean of the half that is neither fast nor slow."""
    ordered = sorted(samples, key=lambda sample: sample[0])
    cut = len(ordered) // 4
    kept = ordered[cut : len(ordered) - cut]
    return sum(s for s, _ in kept) / len(kept), np.mean([times for _, times in kept], axis=0)


def _parts(
    program: Program, steps: list[Step], work: dict[str, Work], spans: Sequence[Span], times: NDArray[np.float64]
) -> Iterator[Part]:
    from llmc.ir.cost import node_cost
    from llmc.ir.program import origin_of, type_of

    nodes = {node.name: node for node in program.nodes}
    layers = program.blocks.layers if program.blocks else ()
    layer = {node.name: number for number, nodes in enumerate(layers) for node in nodes}
    tokens, rows = sum(step.tokens for step in steps), sum(step.rows for step in steps)
    for span, taken in zip(spans, times.T, strict=True):
        node = nodes[span.node]
        moved = node_cost(program, node).activation_bytes * (rows if type_of(node).rows == "R" else tokens)
        yield Part(
            node=span.node,
            op=WAITING if span.waits else node.target.name,  # type: ignore[union-attr]
            code=span.code,
            module=origin_of(node).module,
            layer=layer.get(span.node),
            calls=len(steps),
            seconds=float(taken.mean()),
            slowest=float(taken.max()),
            work=work[span.node] + (work[span.also] if span.also else NOTHING) if span.main else NOTHING,
            activation_bytes=float(moved) if span.main else 0.0,
        )


@dataclass(frozen=True)
class Row:
    """Parts that have something in common, added up. key: what that is, in a reader's words."""

    key: tuple[str, ...]
    calls: int
    seconds: float
    slowest: float
    work: Work
    activation_bytes: float


def grouped(parts: Iterable[Part], key: Callable[[Part], tuple[str, ...]]) -> list[Row]:
    """Parts of the same key added up, in the order in which keys come first."""
    found: dict[tuple[str, ...], list[Part]] = {}
    for part in parts:
        found.setdefault(key(part), []).append(part)
    return [
        Row(
            key=name,
            calls=sum(part.calls for part in each),
            seconds=sum(part.seconds for part in each),
            slowest=sum(part.slowest for part in each),
            work=sum((part.work for part in each), NOTHING),
            activation_bytes=sum(part.activation_bytes for part in each),
        )
        for name, each in found.items()
    ]


def by_op(phase: Phase) -> list[Row]:
    """For each kind of op the code that it runs as, what takes longest first."""
    return sorted(grouped(phase.parts, lambda part: (part.op, part.code)), key=lambda row: -row.seconds)


def by_module(phase: Phase) -> list[Row]:
    """For each place in the user's model, the number of its layer left out, in the order of the step; waiting for all to have
    finished there has a row of its own."""
    return grouped(phase.parts, lambda part: (starred(part), _named(part)))


def _named(part: Part) -> str:
    """What runs, and the op where that does not tell it."""
    if not part.code:
        return part.op
    return f"{part.op} {part.code}" if part.code in ("loop", "copy") else part.code


def by_layer(phase: Phase) -> list[Row]:
    """For each layer, and what is outside of all."""
    rows = grouped(phase.parts, lambda part: ("" if part.layer is None else str(part.layer),))
    return sorted(rows, key=lambda row: int(row.key[0] or -1))


def starred(part: Part) -> str:
    """The module's path with `*` for the number of the layer."""
    return part.module if part.layer is None else re.sub(r"(?<=\.)\d+(?=\.|$)", "*", part.module, count=1)
