"""One sitting: every side is loaded, then all take turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import limits
from benchmarks.client import Client, PeerError
from benchmarks.models import model_of
from benchmarks.peers.base import ROOM, Side
from benchmarks.shapes import Shape
from benchmarks.start import started
from benchmarks.workloads import Workload, workload

WARM_UPS = 2
SECONDS = 0.6
"""A sample takes about so long, as far as ROOM and whole turns of the copies allow."""

MOST_COPIES = 12
PAUSE = 0.05
"""Seconds between samples, in which the threads of the last side fall asleep."""


@dataclass
class Run:
    """The samples of one side at one workload: seconds of a step in the mean, one number a round.

    setting: how the side was set, after others were tried (`Engine.tune`).
    faults: pages that were read from a disk in all samples: then memory was short, and the seconds are not what they could be.
    tokens, flops: of a step. bytes: packed weights and keys and values that it reads. copies: of the model, in turn.
    """

    shape: str
    workload: str
    side: str
    weights: str
    setting: str
    tokens: int
    flops: int
    bytes: int
    copies: int
    steps: int
    seconds: list[float] = field(default_factory=list)
    faults: int = 0


@dataclass
class Sitting:
    """Everything that was measured. limits: one entry for each block of runs. failures: (shape, workload, side, reason)."""

    machine: dict[str, Any]
    limits: list[dict[str, float]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)
    failures: list[tuple[str, str, str, str]] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass
class Loaded:
    """A side with its process."""

    side: Side
    client: Client
    copies: int
    weight_bytes: int
    cache_bytes: int
    turns: int = 0
    """Copies that take turns; with a prompt to read two, since its tokens share the weights."""

    steps: int = 0
    setting: str = ""


@dataclass
class Session:
    """What to run, and where. starts: whether start-up and memory are measured too. say: is told what happens. keep: is called
    when the sitting has more than before, so that one that is cut off leaves what was measured."""

    home: Path
    sides: Sequence[Side]
    workloads: Sequence[str]
    pairs: int
    threads: int
    starts: bool
    say: Callable[[str], object]
    sitting: Sitting
    keep: Callable[[], object]

    def shape(self, shape: Shape) -> None:
        """All workloads of one shape."""
        named = [work for work in map(workload, self.workloads) if work.encode == shape.encoder]
        sides = [side for side in self.sides if (side.encoder if shape.encoder else side.decoder)]
        if not named or not sides:
            return
        if self.starts and not shape.encoder:
            self.start(shape, sides)
            self.keep()
        loaded = [one for one in (self.load(side, shape) for side in sides) if one is not None]
        try:
            for work in named:
                self.say(f"{shape.name} {work.name}")
                self.sitting.limits.append(limits.measure(self.threads))
                self.block(shape, work, loaded)
                self.keep()
        finally:
            for one in loaded:
                one.client.close()

    def start(self, shape: Shape, sides: Sequence[Side]) -> None:
        """Every side once in a process of its own, after a run that brings its files into the page cache."""
        for side in sides:
            self.say(f"{shape.name}: starting {side.label}")
            try:
                for _ in range(2):
                    found = started(side, shape, self.home, self.threads)
                self.sitting.starts.append(found)
            except PeerError as error:
                self.failed(shape, "start", side, error)

    def load(self, side: Side, shape: Shape) -> Loaded | None:
        """A side with as many copies as it takes that more than two last caches of weights pass."""
        self.say(f"{shape.name}: loading {side.label}")
        log = self.home / "logs" / f"{shape.name}-{side.key}.log"
        client = None
        try:
            model = model_of(side, shape, self.home, self.threads)
            client = Client(side, self.home, self.threads, log)
            size = max(packed_bytes(side, shape), 1)
            copies = min(MOST_COPIES, math.ceil(2 * limits.last_cache() / size))
            found = client.ask("load", model=str(model), copies=copies, threads=self.threads)
        except PeerError as error:
            self.failed(shape, "load", side, error)
            if client is not None:
                client.close()
            return None
        return Loaded(side, client, copies, found["weight_bytes"], found["cache_bytes"])

    def failed(self, shape: Shape, work: str, side: Side, error: PeerError) -> None:
        self.say(f"{side.label}: {error}")
        self.sitting.failures.append((shape.name, work, side.label, str(error)))

    def block(self, shape: Shape, work: Workload, loaded: list[Loaded]) -> None:
        """One workload: the sides take turns, in rounds after those that warm up."""
        runs: dict[str, Run] = {}
        for one in loaded:
            try:
                one.turns = one.copies if work.decodes else min(one.copies, 2)
                one.client.ask("prepare", name=work.name, copies=one.turns)
                one.setting = one.client.ask("tune")["setting"]
                one.steps = one.turns
                for _ in range(WARM_UPS):
                    time.sleep(PAUSE)
                    each = one.client.ask("sample", steps=one.steps)["seconds"] / one.steps
                    one.steps = steps_of(each, one.turns, work)
                runs[one.side.key] = self.run_of(shape, work, one)
            except PeerError as error:
                self.failed(shape, work.name, one.side, error)
        for _ in range(self.pairs):
            for one in loaded:
                run = runs.get(one.side.key)
                if run is None:
                    continue
                time.sleep(PAUSE)
                try:
                    found = one.client.ask("sample", steps=one.steps)
                    run.seconds.append(found["seconds"] / one.steps)
                    run.faults += found["faults"]
                except PeerError as error:
                    self.failed(shape, work.name, one.side, error)
                    del runs[one.side.key]
        self.sitting.runs += runs.values()

    def run_of(self, shape: Shape, work: Workload, one: Loaded) -> Run:
        grown = (one.steps / one.turns - 1) / 2 if work.decodes else 0
        return Run(
            shape.name, work.name, one.side.key, one.side.weights, one.setting, work.tokens,
            shape.flops(work.tokens, work.attended(grown), work.rows),
            (one.weight_bytes or packed_bytes(one.side, shape)) + work.cached(grown) * one.cache_bytes, one.turns, one.steps,
        )  # fmt: skip


def packed_bytes(side: Side, shape: Shape) -> int:
    """About what the weights of a side take that a step reads."""
    bits = {"int4": 4.5, "int4+int8 head": 4.5, "int8": 8, "bf16": 16}[side.weights]
    return int((shape.layer_weights + shape.head_weights) * bits / 8)


def steps_of(each: float, copies: int, work: Workload) -> int:
    """Steps of a sample, whole turns of the copies, from the seconds of one."""
    turns = math.ceil(SECONDS / each / copies)
    return copies * max(1, min(turns, ROOM) if work.decodes else turns)
