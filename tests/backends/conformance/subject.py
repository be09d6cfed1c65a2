"""The backends under test, and what they have lowered so far."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable
from functools import lru_cache
from importlib import import_module

from llmc.errors import PluginError, UnsupportedError
from llmc.ir.program import Program
from llmc.plugins.registry import Entry, default
from llmc.runtime.contract import Backend, Executable
from llmc.runtime.lowering import lower


class Subject:
    """A backend, and its executables: each program is lowered once for all tests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.backend: Backend = default().backend(name)
        self._lowered: dict[Hashable, Executable | UnsupportedError] = {}

    def lower(self, key: Hashable, make: Callable[[], Program]) -> Executable:
        """The executable of the program that a key stands for. Raises UnsupportedError if the backend refused it."""
        if key not in self._lowered:
            try:
                self._lowered[key] = lower(self.backend, self.name, make()).executable
            except UnsupportedError as error:
                self._lowered[key] = error
        found = self._lowered[key]
        if isinstance(found, UnsupportedError):
            raise found
        return found


subject = lru_cache(maxsize=None)(Subject)
"""The subject of a registered name, the same for all."""


def registered() -> list[str]:
    """Every registered backend, by name."""
    return [entry.name for entry in default().entries("backends")]


def available() -> list[str]:
    """The registered backends that can run here. Raises PluginError if one cannot even be made."""
    return [name for name in registered() if not lacking(name)]


def lacking(name: str) -> str:
    """Why a backend cannot run on this machine, or nothing. Raises PluginError if there is none to be had."""
    try:
        default().backend(name)
    except UnsupportedError as error:
        return str(error)
    return ""


def named(text: str) -> str:
    """The name of a backend given by name or as `module:Class`, which is registered for this process.

    Raises PluginError if there is none, or if its name is another's, and UnsupportedError if it cannot run here.
    """
    name = _register(text) if ":" in text else text
    default().backend(name)
    return name


def _register(text: str) -> str:
    module, _, attribute = text.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(import_module(module), attribute)
        name = found.name
    except Exception as error:  # the module may be anybody's
        raise PluginError(f"no backend {text}: {type(error).__name__}: {error}") from error
    known = {entry.name: entry for entry in default().entries("backends")}
    if name not in known or known[name].load() is not found:
        default().register("backends", Entry(name, found, "the command line", "?"))
    return name
