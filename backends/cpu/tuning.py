"""The cuts of products with many rows, tried: what the model of the caches gives stays unless another is faster for sure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llmc.backends.cpu import cuts, store, toolchain
from llmc.backends.cpu.build import KERNELS, Code, headers
from llmc.backends.cpu.cuts import Cuts
from llmc.backends.cpu.source import CONTRACT
from llmc.backends.cpu.targets import Target
from llmc.errors import ToolchainError
from llmc.runtime import progress
from llmc.runtime.contract import Trial

SOURCE, PROGRAM = "tune.cpp", "tune"
ROUNDS = 7
SHARES = ((1, 1), (1 / 3, 1), (2 / 3, 1), (4 / 3, 1), (2, 1), (1, 1 / 4), (1, 1 / 2), (1, 2))
"""Multiples of the model's sizes, of rows and of codes; the model's first."""

FASTER = 1.02
"""What a speedup must be in all but one of the rounds for the model's sizes to be given up."""

Rates = dict[str, float]


def tune(target: Target) -> list[Trial]:
    """Try sizes, all in turns, so that a machine that slows down meanwhile does so for all; the result is kept (`cuts.keep`).

    Raises ToolchainError.
    """
    model = cuts.of_machine(target)
    choices = [Cuts(int(model.rows * rows), int(model.codes * codes)) for rows, codes in SHARES]
    with ThreadPoolExecutor() as pool:
        programs = list(pool.map(lambda made: _program(target, made), choices))
    rounds = []
    for count in range(ROUNDS):
        rounds.append([_run(program) for program in programs])
        progress.report("trying cuts", count + 1, ROUNDS)
    best = choose(rounds)
    cuts.keep(target, choices[best])
    return [_trial(made, place, best, rounds) for place, made in enumerate(choices)]


def choose(rounds: Sequence[Sequence[Rates]]) -> int:
    """The choice that is fastest in the time that all its work takes, or the first if no other is so for sure."""
    sure = [sorted(_speedups(rounds, place))[1] for place in range(len(rounds[0]))]
    best = max(range(len(sure)), key=sure.__getitem__)
    return best if sure[best] >= FASTER else 0


def _speedups(rounds: Sequence[Sequence[Rates]], place: int) -> list[float]:
    """How many times as fast as the first, in each round."""
    seconds = [[sum(1 / rate for rate in rates.values()) for rates in done] for done in rounds]
    return [times[0] / times[place] for times in seconds]


def _trial(made: Cuts, place: int, best: int, rounds: Sequence[Sequence[Rates]]) -> Trial:
    sizes = f"{made.rows >> 10} KB of rows, {made.codes >> 10} KB of codes{'' if place else ' (by the size of the cache)'}"
    names = rounds[0][place]
    speedups = {name: statistics.median(done[place][name] / done[0][name] for done in rounds) for name in names}
    return Trial(sizes, speedups, place == best)


def _run(program: Path) -> Rates:
    done = toolchain.execute([str(program)], program.parent)
    if done.returncode:
        raise ToolchainError(f"{program} ended with status {done.returncode}; cuts cannot be tried")
    return {name: float(rate) for name, rate in (line.split() for line in done.stdout.splitlines())}


def _program(target: Target, made: Cuts) -> Path:
    text = f"{CONTRACT}\n{made.text}\n{(KERNELS / SOURCE).read_text()}"
    code = Code(text, {}, headers(), target)

    def compile(work: Path) -> None:
        for name, content in code.texts.items():
            (work / name).write_text(content)
        toolchain.run([*code.compile, "-o", PROGRAM, next(iter(code.texts))], work, PROGRAM, target.machine)

    parts = (f"{name}\0{content}" for name, content in code.texts.items())
    return store.kept(store.cache_folder() / "tuning" / code.digest(*parts), PROGRAM, compile)
