"""The XLA backend: programs become pure functions on arrays, which XLA compiles."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from llmc.ir.formats import INT4
from llmc.ir.program import Program, origin_of
from llmc.runtime.contract import Availability, Backend, unsupported

if TYPE_CHECKING:
    from llmc_xla.executable import XlaExecutable


class XlaBackend(Backend):
    """XLA through jax: this machine's CPU or GPU, and StableHLO exported for TPU."""

    name = "xla"
    formats = ("f32", "f16", "bf16", "int8", *INT4)

    def lower(self, program: Program) -> XlaExecutable:
        """Weights go to the device; XLA compiles at the first step of each shape. Raises UnsupportedError."""
        from llmc_xla.executable import XlaExecutable
        from llmc_xla.step import LOWERED

        program.verify()
        for node in program.nodes:
            name = node.target.name  # type: ignore[union-attr]
            if name not in LOWERED:
                raise unsupported(self.name, name, origin_of(node), "it has no function on arrays")
        return XlaExecutable(program)

    def availability(self) -> Availability:
        try:
            import_module("jax").devices()
        except Exception as error:  # a missing package, or a driver of another version: jax says which
            return Availability(False, f"jax cannot be used: {error}")
        return Availability(True)

    def targets(self) -> tuple[str, ...]:
        """The platforms that programs run on here, and `tpu (export)`, which needs no device."""
        platforms = dict.fromkeys(device.platform for device in import_module("jax").devices())
        return (*platforms, *(() if "tpu" in platforms else ("tpu (export)",)))

    def version(self) -> str:
        return f"jax {version('jax')}"
