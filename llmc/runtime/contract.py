"""The step contract: what a backend is given, what it gives back, and what may change no bit of it.

A model runs by steps. A step takes a `Batch`, a flat list of T tokens from any mix of sequences, copies the cache blocks that
it names, writes the tokens' keys and values to the cache, and lets each token attend to the positions of its own sequence that
its score expression admits, those of the same step included. An output whose type has rows T gives an entry for each token, one
of rows R an entry for each of the rows that were asked for (`Batch.out_rows`).

The cache is cut into blocks of BLOCK positions. Position p of a run's sequence lives in slot `p % BLOCK` of block
`tables[run, p // BLOCK]`. Which sequence has which blocks is decided outside (`llmc.runtime.sequences`); a backend only
follows the tables. Each pair of key and value nodes that an attention reads has a cache of its own; attentions that share the
pair share the cache. What a block holds before it was written or copied to is undefined.

Whole sequences: a program that reads later positions, or gives values of sequences (`Program.whole_sequences`), keeps nothing
from step to step. Each run of a batch is a whole sequence from position 0 on, block tables have no columns, and attention reads
the keys and values of its own run. An output of rows S gives an entry for each run.

Reduction order: a backend that is `row_exact` adds up in an order fixed by (K, format, instruction set) and splits attention at
absolute positions, so that batch size, chunking, row selection and the number of threads change no bit of a row.

Failure: an InputError says that a call was refused and that nothing has changed. After any other exception of `step` the
context is dead, its cache undefined: `close` it and make another.
"""

from __future__ import annotations

import operator
import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmc.errors import InputError, UnsupportedError
from llmc.runtime.batch import BLOCK, POSITION, Batch, InputSpec, Int32

if TYPE_CHECKING:
    from llmc.ir.program import Program
    from llmc.ir.types import TensorType
    from llmc.runtime.profile import ProfiledExecutable

__all__ = ["BLOCK", "POSITION", "Availability", "Backend", "Batch", "Context", "Executable", "InputSpec", "Int32"]

MOST_THREADS = 1024
NO_LARGEST = "step_largest: '{}' is no output in float32 with entries of one dimension"


class Context(ABC):
    """A running model: one cache. Contexts of one executable share its weights and know nothing of each other.

    One call at a time; contexts of different threads may step at once.
    """

    @abstractmethod
    def step(self, batch: Batch) -> dict[str, Any]:
        """Each output by name, `[T, ...]`, `[R, ...]` or `[S, ...]`: an array for `np.asarray`, on whatever device it is.

        Raises InputError, and changes nothing, if the batch breaks the contract (`Batch.check`) or the context was closed. An
        index that the program computes, outside of its table, gives NaN or raises another error.
        """

    def step_largest(self, batch: Batch, output: str) -> NDArray[np.int64]:
        """A step that gives where the largest number of each entry of an output is, and nothing else.

        int64 `[T]`, `[R]` or `[S]`, as the output has rows.

        output: one in float32 with entries of one dimension. Of equal numbers the first counts; -1 stands for an entry that
        has a NaN, or whose largest number is not finite. A backend may have a way that does not give the entries out, after
        `check_largest`. Raises InputError for another output.
        """
        results = self.step(batch)
        values = np.asarray(results[output]) if output in results else None
        if values is None or values.dtype != np.float32 or values.ndim != 2:
            raise InputError(NO_LARGEST.format(output))
        return largest(values)

    @abstractmethod
    def close(self) -> None:
        """Give the memory back now rather than when nobody refers to it; a second call does nothing."""


class Executable(ABC):
    """A lowered program. Contexts may be made from several threads."""

    inputs: Mapping[str, InputSpec]
    """What the program reads for each token, in its order (`llmc.runtime.limits.input_specs`); POSITION only if it does."""

    outputs: Mapping[str, TensorType]
    """What a step gives: rows T, R or S, dtype float32, int64 or bool, and the shape of an entry."""

    block_bytes: int
    """Bytes of one block over all caches, so that a cache can be sized; a backend may round the number of blocks up."""

    whole_sequences: bool = False
    """Whether each run of a batch must be a whole sequence. Then there is no cache: `block_bytes` is 0."""

    row_exact: bool = False
    """Whether batch, chunking, row selection and the number of threads change no bit of a row. Speculation and prefix sharing
    give the same text only on such a backend."""

    target: str = ""
    """The instruction set that the code is for, by the backend's name of it; empty if it is for any machine."""

    machine: str = platform.machine()
    """The kind of machine that the code is for."""

    needs: tuple[str, ...] = ()
    """What the processor must have, as Linux lists it in /proc/cpuinfo; checked before anything of a saved model is opened."""

    @abstractmethod
    def context(self, cache_blocks: int, threads: int | None = None) -> Context:
        """A context whose cache has so many blocks. threads None: one for each core that this process may use.

        A backend whose library has one pool of threads for all checks the number and takes it for advice.
        Raises InputError for numbers that cannot be (`check_sizes`), MemoryError if the cache does not fit.
        """

    @abstractmethod
    def sources(self) -> dict[str, str]:
        """The code that runs, by name (`model.cpp`, `stablehlo`); the main one first."""

    def save(self, folder: Path) -> None:
        """Write into an empty folder the files that `Backend.open` reads, and the sources. The default: the sources only."""
        for name, code in self.sources().items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code, encoding="utf-8")


def largest(entries: NDArray[np.float32]) -> NDArray[np.int64]:
    """What `Context.step_largest` gives for entries `[n, V]`."""
    if not len(entries):
        return np.zeros(0, np.int64)
    finite = np.isfinite(entries.max(1))  # the largest is NaN if any is
    return np.where(finite, entries.argmax(1), -1)


def check_largest(outputs: Mapping[str, TensorType], output: str) -> None:
    """Raise InputError for an output that `Context.step_largest` does not take."""
    kind = outputs.get(output)
    if kind is None or kind.dtype != "float32" or len(kind.fixed) != 1:
        raise InputError(NO_LARGEST.format(output))


def check_sizes(cache_blocks: int, threads: int | None) -> tuple[int, int]:
    """The arguments of `Executable.context`, the default filled in. Raises InputError if they are not whole or out of range."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    blocks = _whole("cache_blocks", cache_blocks)
    count = min(cores, MOST_THREADS) if threads is None else _whole("threads", threads)
    if blocks < 1:
        raise InputError(f"cache_blocks must be at least 1, not {blocks}")
    if not 1 <= count <= MOST_THREADS:
        raise InputError(f"threads must be between 1 and {MOST_THREADS}, not {count}; leave it out to use all cores")
    return blocks, count


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputError(f"{name} must be a whole number, not {value!r}")
    return operator.index(value)


@dataclass(frozen=True)
class Rate:
    """Something a second, measured several times."""

    median: float
    best: float


@dataclass(frozen=True)
class Trial:
    """A setting that `Backend.tune` tried, in a user's words.

    speedups: how many times as fast as with the first setting each piece of work is, by name (median). chosen: code is made so
    from now on.
    """

    setting: str
    speedups: dict[str, float]
    chosen: bool


@dataclass(frozen=True)
class Availability:
    """Whether a backend can run here and if not, why."""

    available: bool
    reason: str = ""


class Backend(ABC):
    """Lowers programs. One instance may lower many."""

    name: str

    formats: tuple[str, ...] = ("f32",)
    """What `lower` takes weights in, by the names of `str(weight.format)`. Those in any other format are handed over as float32
    (`llmc.runtime.lowering`), which `explain()` tells: a model runs, but takes the memory of float32."""

    fused: Set[str] = frozenset()
    """The fused ops that it has code for, by name; others are written out before it is given a program (`lowering.lower`)."""

    lacks: Mapping[str, str] = {}
    """Why formats are not read, by name, to be told then. Every backend runs every op, with the input of `linear` rounded in
    any way, and reads float32 and int8. A refusal of `lower` fails the conformance suite (`llmc.conformance`), and so does a
    format that is neither among `formats` nor here."""

    stored: tuple[str, ...] = ()
    """The files of `Executable.save` that `open` reads; none if a saved model is lowered again from its program."""

    def open(self, folder: Path) -> Executable:
        """The executable that `Executable.save` wrote there, without its program: what is needed to run only, and no torch.

        The files are as they were written, or somebody meant to mislead: names, sizes and types in them are checked. Raises
        ArtifactError naming the file that is malformed or of another version.
        """
        raise UnsupportedError(f"backend '{self.name}' opens no saved models; load one for another backend")

    built: tuple[str, ...] = ()
    """Those of `stored` that `rebuild` makes from the sources beside them."""

    def rebuild(self, folder: Path, made: Path) -> list[str] | None:
        """Make the files of `built` again from the sources in `folder`, which a user may have edited; write them to `made`.

        Gives the names of the sources that they were made of; None if those are of another version of the backend, so that
        the program is to be lowered again. Raises ToolchainError with what the compiler said.
        """
        return None

    @abstractmethod
    def lower(self, program: Program) -> Executable:
        """An executable for a Program. Raises UnsupportedError naming op and origin if something cannot be lowered."""

    def availability(self) -> Availability:
        """Whether this backend can run on this machine."""
        return Availability(True)

    def targets(self) -> tuple[str, ...]:
        """What code is made for, in a user's words: what runs on this machine first, then what is only exported for.

        Asked only where the backend is available.
        """
        return ("this machine",)

    def for_target(self, name: str) -> Backend:
        """This backend making code for one of its targets. Raises UnsupportedError, with a list of them, if it is none."""
        known = ", ".join(self.targets())
        raise UnsupportedError(f"backend '{self.name}' takes no target by name, and got '{name}'; it makes code for {known}")

    def measure_limits(self, threads: int) -> dict[str, Rate]:
        """What the machine can do at most, measured now, for `llmc bench` to compare with.

        "read": bytes a second from memory. "int8", "bfloat16", "float32": operations a second in products of such numbers, a
        multiplication and an addition being two. Empty where the backend cannot tell.
        """
        return {}

    def tune(self) -> list[Trial]:
        """Find by measuring how code for this machine is made best, and keep it in the cache for what is lowered afterwards.

        Results do not change, only their speed. Empty where there is nothing to choose. Raises UnsupportedError if code for the
        target cannot run here.
        """
        return []

    def profiled(self, program: Program, executable: Executable) -> ProfiledExecutable:
        """What measures where the time of each step goes; it computes bit for bit what `executable` does.

        executable: what `lower` gave for this program, or `open`. Raises UnsupportedError where the backend cannot tell.
        """
        raise UnsupportedError(f"backend '{self.name}' cannot tell where the time of a step goes; bench it without a profile")

    def version(self) -> str:
        """What it runs on besides llmc, by version: a compiler, a library. For listings; empty if there is nothing."""
        return ""


def unsupported(backend: str, op: str, origin: object, reason: str) -> UnsupportedError:
    """The error of a backend that cannot lower a node."""
    return UnsupportedError(f"backend '{backend}' cannot lower '{op}' of {origin}: {reason}")
