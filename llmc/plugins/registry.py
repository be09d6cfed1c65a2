"""Who provides which pass, backend and recipe."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from llmc.errors import PluginError, UnsupportedError
from llmc.plugins import hooks

DISABLED_VARIABLE = "LLMC_DISABLE_PLUGINS"
EXCLUDED = f"excluded by {DISABLED_VARIABLE}"
SINGULAR = {"passes": "pass", "backends": "backend", "recipes": "recipe"}
KINDS = tuple(SINGULAR)


@dataclass(frozen=True)
class Entry:
    """Something registered: its name, what it is (a class, its `module:Class`, or a recipe's list), and whose it is.

    summary: what a recipe is for; of a pass or a backend its class says it.
    """

    name: str
    value: Any
    distribution: str
    version: str
    summary: str = ""

    def load(self) -> Any:
        """The class. Raises PluginError if it cannot be imported."""
        if not isinstance(self.value, str):
            return self.value
        module, _, attribute = self.value.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except Exception as error:  # the module may be anybody's
            raise PluginError(f"'{self.name}' of {self.distribution} cannot be imported from {self.value}: {error}") from error

    def make(self) -> Any:
        """An instance of a registered backend. Raises PluginError if it is none, or fails."""
        from llmc.runtime.contract import Backend

        found = self.load()
        try:
            made = found()
        except Exception as error:  # the class may be anybody's
            reason = f"{type(error).__name__}: {error}"
            raise PluginError(f"backend '{self.name}' of {self.distribution} cannot be made: {reason}") from error
        if not isinstance(made, Backend):
            raise PluginError(f"backend '{self.name}' of {self.distribution} is {found!r}, no Backend")
        return made

    @property
    def doc(self) -> str:
        """What a recipe is for, or its passes; the first sentence of a class's docstring, or why there is none. Imports it."""
        if isinstance(self.value, list):
            return self.summary or ", ".join(spec["name"] if isinstance(spec, dict) else spec for spec in self.value)
        try:
            paragraph = (self.load().__doc__ or "").strip().split("\n\n")[0]
        except PluginError as error:  # a listing is where one looks to find out what is wrong
            return f"({error})"
        return re.split(r"(?<=[.!?])\s", " ".join(paragraph.split()))[0]


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
        found = entry_points(group=hooks.GROUP) if points is None else points
        # An editable install may be found twice. Built-in plugins go first, so that they head every listing.
        unique = {(point.name, point.value, _owner(point)): point for point in found}
        for point in sorted(unique.values(), key=lambda p: (_owner(p)[0] != "llmc", _owner(p), p.name)):
            self.plugins.append(self._load(point))
        self._check_excluded()

    def _load(self, point: EntryPoint) -> Plugin:
        distribution, version = _owner(point)
        problem = ""
        if {_canonical(point.name), _canonical(distribution)} & _excluded():
            problem = EXCLUDED
        else:
            try:
                found = self._collect(point)
            except Exception as error:  # a plugin may fail in any way; the others still work
                problem = f"{type(error).__name__}: {error}"
                warnings.warn(f"plugin '{point.name}' of {distribution} is skipped: {problem}", stacklevel=3)
            else:
                for kind, entry in found:
                    self.register(kind, entry)
        return Plugin(point.name, point.value, distribution, version, problem)

    def _check_excluded(self) -> None:
        """Warn of a name to exclude that no plugin has: a misspelt one would leave its plugin in use without a word."""
        known = {_canonical(name) for plugin in self.plugins for name in (plugin.name, plugin.distribution)}
        for name in sorted(_excluded() - known):
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(sorted(known))}"
            warnings.warn(f"{DISABLED_VARIABLE}: no plugin or distribution of one is named '{name}'; {hint}", stacklevel=4)

    def _collect(self, point: EntryPoint) -> list[tuple[str, Entry]]:
        """Hand the plugin to pluggy and return what it registers: all of it, or, where it fails, nothing."""
        module = point.load()
        distribution, version = _owner(point)
        found: list[tuple[str, Entry]] = []
        self.manager.register(module, name=f"{distribution}:{point.name}")
        try:
            self.manager.check_pending()  # a misspelt hook would otherwise never be called
            others = [plugin for plugin in self.manager.get_plugins() if plugin is not module]
            for kind in KINDS:

                def register(name: str, value: Any, summary: str = "", kind: str = kind) -> None:
                    _check(kind, name, value)
                    found.append((kind, Entry(name, value, distribution, version, summary)))

                self.manager.subset_hook_caller(f"llmc_{kind}", others)(register=register)
        except Exception:
            self.manager.unregister(module)
            raise
        return found

    def register(self, kind: str, entry: Entry) -> None:
        """Add an entry. Raises PluginError if the name is taken, naming both distributions."""
        other = self._entries[kind].setdefault(entry.name, entry)
        if other is not entry:
            raise PluginError(
                f"the {SINGULAR[kind]} '{entry.name}' comes from both {other.distribution} and {entry.distribution}; "
                f"uninstall one, or exclude it with {DISABLED_VARIABLE}"
            )

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call a hook of observers; one that fails is named in a warning and hinders neither the others nor the compilation."""
        plugins = self.manager.list_name_plugin()
        for name, plugin in reversed(plugins):
            others = [other for _, other in plugins if other is not plugin]
            try:
                self.manager.subset_hook_caller(hook, others)(**arguments)
            except Exception as error:  # an observer may be anybody's
                warnings.warn(f"plugin '{name}' failed in {hook}: {type(error).__name__}: {error}", stacklevel=2)

    def entries(self, kind: str) -> list[Entry]:
        """Everything registered of one kind ("passes", "backends", "recipes"), built-in first."""
        return list(self._entries[kind].values())

    @property
    def broken(self) -> list[Plugin]:
        """The plugins that failed to load and were skipped; those that the user excluded are not among them."""
        return [plugin for plugin in self.plugins if plugin.problem not in ("", EXCLUDED)]

    def _entry(self, kind: str, name: str) -> Entry:
        entries = self._entries[kind]
        if not isinstance(name, str):
            raise PluginError(f"a {SINGULAR[kind]} is named by a text, not by {name!r}")
        if name not in entries:
            near = " or ".join(map(repr, difflib.get_close_matches(name, entries, n=3)))
            hint = f"did you mean {near}? " if near else ""
            skipped = "".join(f"; plugin '{one.name}' of {one.distribution} is skipped: {one.problem}" for one in self.broken)
            known = ", ".join(entries) or "none"
            raise PluginError(f"no {SINGULAR[kind]} is named '{name}'; {hint}known: {known}{skipped}")
        return entries[name]

    def pass_class(self, name: str) -> Any:
        """The class of a pass. Raises PluginError if there is none."""
        return self._entry("passes", name).load()

    def backend(self, name: str, lowers: bool = True) -> Any:
        """A new instance of a backend. Raises PluginError if there is none, UnsupportedError if it cannot run here.

        lowers: it must be able to lower programs; without, to open what it has lowered (a compiler is not needed for that).
        """
        made = self._entry("backends", name).make()
        if not lowers:
            return made
        found = made.availability()
        if not found.available:
            raise UnsupportedError(f"backend '{name}' cannot run here: {found.reason or 'it does not say why'}")
        return made

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


def _owner(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("?", "?")


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _excluded() -> set[str]:
    return {_canonical(name.strip()) for name in os.environ.get(DISABLED_VARIABLE, "").split(",") if name.strip()}


def _check(kind: str, name: Any, value: Any) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"a {SINGULAR[kind]} is registered under the name {name!r}")
    if kind == "recipes":
        if not isinstance(value, list) or not all(isinstance(s, str) or (isinstance(s, dict) and "name" in s) for s in value):
            raise ValueError(f"recipe '{name}' must be a list of pass names and of dicts with a 'name', not {value!r}")
    elif not isinstance(value, type) and not (isinstance(value, str) and re.fullmatch(r"[\w.]+:\w+", value)):
        raise ValueError(f"{SINGULAR[kind]} '{name}' must be given as 'module:Class' or a class, not {value!r}")
