"""How far long work is: bars on a terminal, plain lines elsewhere; all of it on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

STAGES_SHOWN = 10
"""Lines about one counted stage, where there is no terminal."""


class Tell(Protocol):
    """Told what is being done now, and how many of its parts are done: 0 of 0 where they are not counted."""

    def __call__(self, text: str, done: int = 0, total: int = 0) -> None: ...


def tell(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress(first: str) -> Iterator[Tell]:
    """Tells `first`, then what the compiler reports while this lasts, and what is told besides.

    What a terminal showed is gone at the end.
    """
    from llmc.runtime.progress import listening

    if sys.stderr.isatty():
        with _bar(first) as show, listening(show):
            yield show
    else:
        tell(first)
        lines = _Lines()
        with listening(lines):
            yield lines


class _Lines:
    """A line for each stage, and about ten for a counted one."""

    def __call__(self, text: str, done: int = 0, total: int = 0) -> None:
        if total == 0:
            tell(text)
        elif total <= STAGES_SHOWN or done == total or done * STAGES_SHOWN // total > (done - 1) * STAGES_SHOWN // total:
            tell(f"{text}, {done} of {total}")


@contextmanager
def _bar(first: str) -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
    words = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), words, BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(first, total=None)

        def show(text: str, done: int = 0, total: int = 0) -> None:
            bar.update(task, description=text, completed=done, total=total or None)

        yield show
