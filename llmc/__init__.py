"""A compiler for language models: PyTorch in, transformed graphs through, readable generated code out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmc.compiler import compile
    from llmc.runtime.artifact import load
    from llmc.runtime.model import CompiledModel

__version__ = "0.1.0"
__all__ = ["CompiledModel", "__version__", "compile", "load"]

_HOMES = {"compile": "llmc.compiler", "load": "llmc.runtime.artifact", "CompiledModel": "llmc.runtime.model"}


def __getattr__(name: str) -> Any:
    """Public names are imported on first use: `import llmc` alone loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'llmc' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
