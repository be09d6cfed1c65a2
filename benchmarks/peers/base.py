"""What every side of the comparison is to its worker, and what tells them apart.

This module and those beside it are imported by the interpreters of all peers: at the top they import the standard library and
numpy only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workloads import Workload

ROOM = 64
"""Positions by which a sequence may grow in one sample."""


@dataclass(frozen=True)
class Side:
    """Something that is timed. key: what options call it. peer: its module here. variant: what its engine builds.

    weights: those of one class are compared ("int4", "int4+int8 head", "int8", "bf16").
    """

    key: str
    label: str
    peer: str
    variant: str
    weights: str
    encoder: bool = False
    decoder: bool = True


class Engine(ABC):
    """One side at work in its own process: copies of one model, taken in turn."""

    weight_bytes: int
    """Of one copy, what a step reads of packed weights."""

    cache_bytes: int
    """Of keys and values for one position of one sequence, over all layers."""

    @staticmethod
    @abstractmethod
    def build(checkpoint: Path, variant: str, target: Path) -> None:
        """Make of a folder of the `transformers` library what `load` reads. target: a path that does not exist yet."""

    @abstractmethod
    def load(self, model: Path, copies: int, threads: int) -> None:
        """Load so many copies, each in memory of its own."""

    @abstractmethod
    def prepare(self, workload: Workload, copies: int) -> None:
        """Give each of the first copies a cache: sequences of the workload's context, and room for ROOM positions more."""

    def tune(self) -> str:
        """Try what can be set for the prepared workload, stay with the fastest, and tell what that is; "" if nothing can."""
        return ""

    @abstractmethod
    def step(self, copy: int) -> None:
        """Read the workload's prompts and one more token of each sequence, and choose the next token of each greedily."""

    @abstractmethod
    def reset(self, copy: int) -> None:
        """The sequences as they were prepared."""
