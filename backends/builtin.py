"""The backends that come with llmc."""

from __future__ import annotations

from collections.abc import Callable

from llmc.plugins.hooks import hookimpl


@hookimpl
def llmc_backends(register: Callable[[str, str], None]) -> None:
    """The reference, and generated C++."""
    register("eager", "llmc.backends.eager.backend:EagerBackend")
    register("cpu", "llmc.backends.cpu.backend:CpuBackend")
