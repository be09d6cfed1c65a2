"""Lowering by a backend that may be anybody's: what it does not read is put in terms that it does first."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmc.errors import LLMCError, UnsupportedError
from llmc.runtime.contract import Backend, Executable

if TYPE_CHECKING:
    from llmc.ir.program import Program
    from llmc.pipeline.record import PassRecord

LOWER = "lower"
"""The key of the record that lowering leaves among those of the passes."""


@dataclass(frozen=True)
class Lowered:
    """An executable, and a record of what the program was changed by for this backend; none if by nothing."""

    executable: Executable
    records: tuple[PassRecord, ...] = ()


def lower(backend: Backend, name: str, program: Program) -> Lowered:
    """The executable of a program. Raises LLMCError: what the backend says it cannot do, or UnsupportedError if it fails."""
    readable, records = decomposed(backend, name, program)
    try:
        made = backend.lower(readable)
    except (LLMCError, MemoryError):
        raise
    except Exception as error:
        raise UnsupportedError(f"backend '{name}' failed to lower the program: {type(error).__name__}: {error}") from error
    if not isinstance(made, Executable):
        raise UnsupportedError(f"backend '{name}' gave {type(made).__name__}, no Executable")
    return Lowered(made, records)


def decomposed(backend: Backend, name: str, program: Program) -> tuple[Program, tuple[PassRecord, ...]]:
    """The program without fused ops that the backend has no code for (`Backend.fused`), and with float32, made when it is read,
    in place of formats that it does not read (`Backend.formats`).

    The record tells which ops and formats those are, why formats are not read, and the bytes before and after.
    """
    from llmc.ir.composite import FusedOp
    from llmc.ir.decompose import decompose
    from llmc.pipeline.record import PassRecord

    began = time.perf_counter()
    apart = decompose(program, backend.fused)
    after, matched, notes = _readable_formats(backend, name, apart)
    if apart is not program:
        unknown = [node for node in program.nodes if isinstance(node.target, FusedOp) and node.target.name not in backend.fused]
        names = ", ".join(dict.fromkeys(node.target.name for node in unknown))  # type: ignore[union-attr]
        matched, notes = matched + len(unknown), [f"backend '{name}' has no code of its own for {names}; written out", *notes]
    if not matched:
        return program, ()
    record = PassRecord(
        key=LOWER,
        seconds=time.perf_counter() - began,
        matched=matched,
        refused=[],
        notes=notes,
        nodes_before=len(program.nodes),
        nodes_after=len(after.nodes),
        weight_bytes_before=program.weight_bytes(),
        weight_bytes_after=after.weight_bytes(),
    )
    return after, (record,)


def _readable_formats(backend: Backend, name: str, program: Program) -> tuple[Program, int, list[str]]:
    """The program, the number of weights that were changed, and a note for each format."""
    from llmc.ir.formats import Dense
    from llmc.ir.program import Program
    from llmc.ir.weights import Encoded

    floats = {key: weight for key, weight in program.weights.items() if weight.type.dtype == "float32"}
    unread = {key: weight for key, weight in floats.items() if str(weight.format) not in ("f32", *backend.formats)}
    if not unread:
        return program, 0, []
    dense = {key: Encoded(weight, Dense("float32"), lambda rows: {"values": rows}) for key, weight in unread.items()}
    notes = []
    for form in dict.fromkeys(str(weight.format) for weight in unread.values()):
        keys = [key for key, weight in unread.items() if str(weight.format) == form]
        sizes = [sum(weights[key].bytes for key in keys) / 1e6 for weights in (program.weights, dense)]
        reason = f" ({backend.lacks[form]})" if form in backend.lacks else ""
        notes.append(
            f"backend '{name}' does not read {form}{reason}; weights handed over as f32: {len(keys)}, "
            f"{sizes[1]:.2f} MB instead of {sizes[0]:.2f}"
        )
    return Program(program.graph, {**program.weights, **dense}, program.outputs), len(unread), notes
