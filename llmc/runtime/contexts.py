"""Contexts kept for the next call, because a cache is expensive to make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from llmc.errors import InputError
from llmc.runtime.contract import Context, Executable, check_sizes


class ContextPool:
    """Lends contexts of one executable and keeps the largest that is not in use.

    A call that comes while another is under way, from a second thread or a stream that was not read to its end, gets a
    context of its own. Raises InputError if there cannot be so many threads.
    """

    def __init__(self, executable: Executable, threads: int | None) -> None:
        check_sizes(1, threads)
        self._executable, self._threads = executable, threads
        self._lock = Lock()  # held only to look at what is kept
        self._kept: tuple[int, Context] | None = None

    @contextmanager
    def lease(self, blocks: int) -> Iterator[Context]:
        """A context whose cache has at least so many blocks.

        It comes back if the caller ends, stops early or was refused; after any other error its cache is undefined.
        """
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None and kept[0] < blocks:
            kept[1].close()  # the smaller cache goes before the larger one is made
            kept = None
        size, context = kept or (blocks, self._executable.context(blocks, self._threads))
        try:
            yield context
        except BaseException as error:
            if isinstance(error, InputError | GeneratorExit):
                self._keep(size, context)
            else:
                context.close()
            raise
        self._keep(size, context)

    def _keep(self, size: int, context: Context) -> None:
        spare: Context | None = context
        with self._lock:
            if self._kept is None or self._kept[0] < size:
                spare = None if self._kept is None else self._kept[1]
                self._kept = size, context
        if spare is not None:
            spare.close()
