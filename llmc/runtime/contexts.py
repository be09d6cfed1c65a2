"""Contexts kept for the next call, because a cache is expensive to make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llmc.runtime.contract import Context, Executable


class ContextPool:
    """Lends contexts of one executable and keeps the largest that is not in use.

    A call that comes while another is under way, from a second thread or a stream that was not read to its end, gets a
    context of its own.
    """

    def __init__(self, executable: Executable, threads: int | None) -> None:
        self._executable, self._threads = executable, threads
        self._idle: list[tuple[int, Context]] = []

    @contextmanager
    def lease(self, blocks: int) -> Iterator[Context]:
        """A context whose cache has at least so many blocks."""
        try:
            size, context = self._idle.pop()
        except IndexError:
            size = 0
        if size < blocks:
            context = None  # type: ignore[assignment]  # the smaller cache goes before the larger one is made
            size, context = blocks, self._executable.context(blocks, self._threads)
        try:
            yield context
        finally:
            self._idle = [max([*self._idle, (size, context)], key=lambda kept: kept[0])]
