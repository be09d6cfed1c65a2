"""Where the time of a step goes: what a backend that can tell gives to `llmc bench --profile`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmc.runtime.contract import Context, Executable


@dataclass(frozen=True)
class Span:
    """A part of a step.

    node: whose code runs, by its name in the program. code: what runs, such as a kernel's name; empty for the time in which a
    thread waits for the others after that. main: whether the node's own work is done here, and not what prepares it. also:
    another node whose work is done with it.
    """

    node: str
    code: str
    main: bool
    also: str | None = None

    @property
    def waits(self) -> bool:
        """Whether threads wait for each other, and do nothing."""
        return not self.code


class ProfiledContext(Context):
    """A context that measures its steps.

    times: of the last step, seconds float64 `[threads, spans]`; a thread's spans follow each other without a gap.
    """

    times: NDArray[np.float64]


class ProfiledExecutable(Executable):
    """An executable that computes the same as another, and measures the parts of each step.

    spans: these parts, the same for every step.
    """

    spans: Sequence[Span]

    @abstractmethod
    def context(self, cache_blocks: int, threads: int | None = None) -> Any:
        """A ProfiledContext; errors are those of `Executable.context`."""
