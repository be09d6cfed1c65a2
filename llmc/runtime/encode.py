"""The outputs for whole sequences, of programs that read later positions or give values of sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmc.errors import InputError
from llmc.runtime.contract import POSITION, Batch, Context, Executable

WHOLE_TOKENS = 4096
"""Most tokens that one step of whole sequences is given, unless one has more: a step ends when its last thread does, so few are
better than many, and there is no cache that grows with them."""

Inputs = Mapping[str, Sequence[NDArray[np.int64]]]
"""Of each input of a program, a number for each token of each sequence."""


def run_whole(
    lease: Callable[[int], AbstractContextManager[Context]], executable: Executable, inputs: Inputs
) -> dict[str, list[NDArray[Any]]]:
    """Each output by name for each sequence, `[len, ...]` or, of rows S, `[...]`; steps of WHOLE_TOKENS at most, or of one."""
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in executable.outputs}
    lengths = [len(ids) for ids in inputs["input_ids"]]
    if not lengths:
        return found
    with lease(1) as context:
        for group in groups(lengths):
            batch = Batch.of_sequences({name: values[group] for name, values in inputs.items()})
            for name, values in context.step(batch).items():
                rows = np.asarray(values)
                of_sequences = executable.outputs[name].rows == "S"
                found[name] += list(rows) if of_sequences else np.split(rows, batch.starts[1:-1])
    return found


def groups(lengths: Sequence[int]) -> Iterator[slice]:
    """Which sequences, one after the other, are stepped together."""
    start = tokens = 0
    for index, length in enumerate(lengths):
        if index > start and tokens + length > WHOLE_TOKENS:
            yield slice(start, index)
            start, tokens = index, 0
        tokens += length
    yield slice(start, len(lengths))


def complete(executable: Executable, runs: list[list[int]], others: Mapping[str, Any]) -> dict[str, list[NDArray[np.int64]]]:
    """All inputs of the program; those besides ids that are not given are zeros.

    Raises InputError for an input that the program does not read, and for numbers that are not one for each token.
    """
    read = [name for name in executable.inputs if name not in ("input_ids", POSITION)]
    unknown = [name for name, given in others.items() if name not in read and given is not None]
    if unknown:
        raise InputError(f"this model reads no {unknown[0]}; it reads {', '.join(['input_ids', *read])}")
    inputs = {"input_ids": [np.array(ids, np.int64) for ids in runs]}
    for name in read:
        rows = others.get(name)
        if rows is None:
            inputs[name] = [np.zeros(len(ids), np.int64) for ids in runs]
            continue
        if len(rows) != len(runs) or any(len(row) != len(ids) for row, ids in zip(rows, runs, strict=False)):
            raise InputError(f"{name} must have a number for each token of each sequence")
        inputs[name] = [np.array(row, np.int64) for row in rows]
    return inputs


def pooled_output(executable: Executable, output: str | None) -> str:
    """The output of a name, or the first, that has one entry a sequence. Raises InputError if there is none."""
    pooled = [name for name, kind in executable.outputs.items() if kind.rows == "S"]
    if output is None and pooled:
        return pooled[0]
    if output not in pooled:
        what = "no output" if output is None else f"no output '{output}'"
        known = f"those that do: {', '.join(pooled)}" if pooled else f"it gives {', '.join(executable.outputs)}, for each token"
        raise InputError(f"this model has {what} with an entry for each sequence; {known}")
    return output
