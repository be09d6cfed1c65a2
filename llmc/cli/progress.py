"""How far long work is: bars on a terminal, plain lines elsewhere; all of it on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
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
    """Gives what to tell; `first` is told already. What a terminal showed is gone at the end."""
    if sys.stderr.isatty():
        with _bar(first) as shown:
            yield shown
    else:
        tell(first)
        yield _Lines()


@contextmanager
def following(show: Tell) -> Iterator[None]:
    """Let `show` be told of passes and other stages of the compiler while this lasts."""
    from llmc.plugins.hooks import hookimpl
    from llmc.plugins.registry import default

    class Observer:
        """Hears the hooks."""

        @hookimpl
        def llmc_progress(self, text: str, done: int, total: int) -> None:
            show(text, done, total)

    observer, manager = Observer(), default().manager
    manager.register(observer)
    try:
        yield
    finally:
        manager.unregister(observer)


class _Lines:
    """A line for each stage, and about ten for a counted one."""

    def __call__(self, text: str, done: int = 0, total: int = 0) -> None:
        if total == 0:
            tell(text)
        elif total <= STAGES_SHOWN or done == total or done * STAGES_SHOWN // total > (done - 1) * STAGES_SHOWN // total:
            tell(f"{text}, {done} of {total}")


@contextmanager
def _bar(first: str) -> Iterator[Callable[..., None]]:
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
