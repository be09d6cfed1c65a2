"""What llmc finds by the entry point of this distribution."""

from __future__ import annotations

from collections.abc import Callable

from llmc.plugins.hooks import hookimpl


@hookimpl
def llmc_passes(register: Callable[[str, str], None]) -> None:
    """Factorisation."""
    register("low-rank", "llmc_lowrank.low_rank:LowRank")
