"""What llmc finds by the entry point of this distribution."""

from __future__ import annotations

from collections.abc import Callable

from llmc.plugins.hooks import hookimpl


@hookimpl
def llmc_backends(register: Callable[[str, str], None]) -> None:
    """XLA, through jax."""
    register("xla", "llmc_xla.backend:XlaBackend")
