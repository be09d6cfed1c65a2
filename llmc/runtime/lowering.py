"""Lowering by a backend that may be anybody's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmc.errors import LLMCError, UnsupportedError
from llmc.runtime.contract import Backend, Executable

if TYPE_CHECKING:
    from llmc.ir.program import Program


def lower(backend: Backend, name: str, program: Program) -> Executable:
    """The executable of a program. Raises LLMCError: what the backend says it cannot do, or UnsupportedError if it fails."""
    try:
        made = backend.lower(program)
    except (LLMCError, MemoryError):
        raise
    except Exception as error:
        raise UnsupportedError(f"backend '{name}' failed to lower the program: {type(error).__name__}: {error}") from error
    if not isinstance(made, Executable):
        raise UnsupportedError(f"backend '{name}' gave {type(made).__name__}, no Executable")
    return made
