"""The hooks of llmc: what a plugin may add, and what it may watch.

A plugin is a module, named by an entry point of the group `llmc`, with functions marked `@hookimpl`:

    from llmc.plugins.hooks import hookimpl

    @hookimpl
    def llmc_passes(register):
        register("my-pass", "my_package.my_pass:MyPass")

`module:Class` is imported on first use, which keeps `import llmc` light; a class itself may be given as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pluggy

GROUP = "llmc"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def llmc_passes(register: Callable[[str, str | type], None]) -> None:
    """Register passes: `register("name", "module:Class")`."""


@hookspec
def llmc_backends(register: Callable[[str, str | type], None]) -> None:
    """Register backends: `register("name", "module:Class")`."""


@hookspec
def llmc_recipes(register: Callable[..., None]) -> None:
    """Register recipes: `register("name", ["pass", {"name": "pass", "option": value}], "What it is for.")`."""


@hookspec
def llmc_pass_started(name: str, program: Any) -> None:
    """A pass is about to run on a program. An observer that fails is warned about and goes unheard."""


@hookspec
def llmc_pass_finished(name: str, record: Any) -> None:
    """A pass has run; the record is a `PassRecord`."""
