"""Programs exported for a platform that need not be here."""

from __future__ import annotations

from typing import Any

import jax.export

from llmc.ir.program import Program
from llmc.runtime.lowering import lower
from llmc_xla.backend import XlaBackend
from llmc_xla.executable import XlaExecutable, semantics
from llmc_xla.shapes import Shape


def export(model: XlaExecutable | Program, platform: str = "tpu", shape: Shape | None = None) -> bytes:
    """The step of one shape as serialized StableHLO (`jax.export`) for "tpu", "cpu", "cuda" or "rocm".

    shape: the smallest by default. It takes what the step function takes: weights (`XlaExecutable.weights`), cache and
    `shapes.arrays`. Read it by
    `jax.export.deserialize`, and call it within `executable.semantics()`, for its ids are int64.
    """
    executable: Any = lower(XlaBackend(), XlaBackend.name, model).executable if isinstance(model, Program) else model
    with semantics():
        arguments = executable.arguments(shape or executable.smallest)
        exported: Any = jax.export.export(executable.function, platforms=[platform])(*arguments)
        return bytes(exported.serialize())
