"""Who provides which pass, backend and recipe."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from llmc.errors import PluginError
from llmc.plugins import hooks

DISABLED_VARIABLE = "LLMC_DISABLE_PLUGINS"
SINGULAR = {"passes": "pass", "backends": "backend", "recipes": "recipe"}
KINDS = tuple(SINGULAR)


@dataclass(frozen=True)
class Entry:
    """Something registered: its name, what it is (`module:Class`, or a recipe's list), and whose it is."""

    name: str
    value: Any
    distribution: str
    version: str

    def load(self) -> Any:
        """The class named by `module:Class`. Raises PluginError if it cannot be imported."""
        module, _, attribute = str(self.value).partition(":")
        try:
            return getattr(import_module(module), attribute)
        except Exception as error:
            raise PluginError(f"'{self.name}' of {self.distribution} cannot be imported from {self.value}: {error}") from error


@dataclass(frozen=True)
class Plugin:
    """An entry point, and why it is not in use if it is not."""

    name: str
    module: str
    distribution: str
    version: str
    problem: str = ""


class Registry:
    """All plugins of the group `llmc`. Loading them imports their hook modules and nothing more."""

    def __init__(self, points: Iterable[EntryPoint] | None = None) -> None:
        self.manager = pluggy.PluginManager(hooks.GROUP)
        self.manager.add_hookspecs(hooks)
        self.plugins: list[Plugin] = []
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        disabled = {name.strip() for name in os.environ.get(DISABLED_VARIABLE, "").split(",") if name.strip()}
        found = entry_points(group=hooks.GROUP) if points is None else points
        unique = {(point.name, point.value): point for point in found}
        for point in sorted(unique.values(), key=lambda p: (not p.value.startswith("llmc."), p.name)):
            self._load(point, disabled)

    def _load(self, point: EntryPoint, disabled: set[str]) -> None:
        distribution = point.dist.name if point.dist else "?"
        version = point.dist.version if point.dist else "?"
        problem = ""
        if disabled & {point.name, distribution}:
            problem = f"excluded by {DISABLED_VARIABLE}"
        else:
            try:
                module = import_module(point.value)
            except Exception as error:  # a plugin may fail in any way; the others still work
                problem = f"{type(error).__name__}: {error}"
                warnings.warn(f"plugin '{point.name}' of {distribution} is skipped: {problem}", stacklevel=3)
            else:
                self.manager.register(module, name=f"{distribution}:{point.name}")
                self._collect(module, distribution, version)
        self.plugins.append(Plugin(point.name, point.value, distribution, version, problem))

    def _collect(self, module: Any, distribution: str, version: str) -> None:
        for kind in KINDS:
            implementation = getattr(module, f"llmc_{kind}", None)
            if implementation is not None:
                implementation(lambda name, value, kind=kind: self.register(kind, Entry(name, value, distribution, version)))

    def register(self, kind: str, entry: Entry) -> None:
        """Add an entry. Raises PluginError if the name is taken, naming both distributions."""
        other = self._entries[kind].setdefault(entry.name, entry)
        if other is not entry:
            raise PluginError(
                f"{kind} named '{entry.name}' come from both {other.distribution} and {entry.distribution}; "
                f"uninstall one, or exclude it with {DISABLED_VARIABLE}"
            )

    def entries(self, kind: str) -> list[Entry]:
        """Everything registered of one kind ("passes", "backends", "recipes"), built-in first."""
        return list(self._entries[kind].values())

    def _entry(self, kind: str, name: str) -> Entry:
        entries = self._entries[kind]
        if name not in entries:
            near = difflib.get_close_matches(name, entries, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(entries)}"
            raise PluginError(f"no {SINGULAR[kind]} is named '{name}'; {hint}")
        return entries[name]

    def pass_class(self, name: str) -> Any:
        """The class of a pass. Raises PluginError if there is none."""
        return self._entry("passes", name).load()

    def backend(self, name: str) -> Any:
        """A new instance of a backend. Raises PluginError if there is none."""
        return self._entry("backends", name).load()()

    def recipe(self, name: str) -> list[Any]:
        """The passes of a recipe, as it was registered. Raises PluginError if there is none."""
        return list(self._entry("recipes", name).value)

    def versions(self) -> dict[str, str]:
        """Version of every distribution in use, for cache keys and manifests."""
        return {plugin.distribution: plugin.version for plugin in self.plugins if not plugin.problem}


@lru_cache(maxsize=1)
def default() -> Registry:
    """The registry of everything installed."""
    return Registry()
