"""Long work tells how far it is to whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]
"""Called with what is done ("compiling kernels"), how many of it are finished, and how many there are; 0 of 0: not counted."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def report(what: str, done: int, total: int) -> None:
    """Tell the listener of this context, if there is one."""
    listener = _listener.get()
    if listener is not None:
        listener(what, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have reports of the work in this block brought to a listener."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
