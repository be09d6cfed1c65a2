"""Shapes that steps are filled up to, so that XLA compiles a bounded number of programs; and the filling up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmc.runtime.contract import BLOCK, POSITION, Batch, InputSpec
from llmc_xla.attention import Chunks

CHUNK = BLOCK
"""Queries that attend together, unless each run is one token."""

LEAST_WIDTH, LEAST_CAPACITY = 4, 16


def power_of_two(count: int, least: int = 1) -> int:
    """The least power of two that is not below."""
    return max(least, 1 << max(count - 1, 0).bit_length())


def capacity_for(blocks: int) -> int:
    """Blocks of a cache: four sizes between a power of two and the next, so at most a quarter is unused."""
    step = max(power_of_two(blocks + 1) // 8, LEAST_CAPACITY)
    return -(-blocks // step) * step


@dataclass(frozen=True)
class Shape:
    """Of a step: T tokens, N chunks of L of them, W blocks a sequence, R rows, and the cache's blocks.

    Besides the cache there are two forms. Decoding has L = 1, N = R = T (R more if rows are repeated). Anything else has
    L = CHUNK, T at least CHUNK, N from T / CHUNK to T, and R one of N, T or more. All are powers of two, so steps of at most
    t tokens over at most w blocks of a sequence, rows unrepeated, have at most `bound(t, w)` shapes for a size of cache.
    Whole sequences have no cache: there are `runs` of them, of at most W tokens.
    """

    tokens: int
    chunks: int
    length: int
    width: int
    rows: int
    capacity: int
    runs: int = 0

    @staticmethod
    def of(batch: Batch, capacity: int, whole: bool = False) -> Shape:
        """The shape that a batch is filled up to. whole: it is of whole sequences."""
        length = 1 if batch.lengths.max() == 1 else CHUNK
        tokens = power_of_two(batch.tokens, length)
        chunks = power_of_two(int((-(-batch.lengths // length)).sum()), tokens // length)
        if whole:
            width, capacity = power_of_two(int(batch.lengths.max()), CHUNK), 0
        else:
            width = power_of_two(int((batch.first + batch.lengths - 1).max()) // BLOCK + 1, LEAST_WIDTH)
        wanted = len(batch.out_rows)
        rows = next((size for size in (chunks, tokens) if wanted <= size), power_of_two(wanted))
        return Shape(tokens, chunks, length, width, rows, capacity, power_of_two(len(batch.first)) if whole else 0)


def bound(tokens: int, width: int) -> int:
    """At most so many shapes have the steps of up to `tokens` tokens over up to `width` blocks, rows unrepeated."""
    decode = power_of_two(tokens).bit_length()
    mixed = power_of_two(tokens, CHUNK).bit_length() - CHUNK.bit_length() + 1
    chunked = mixed * (2 * CHUNK.bit_length() - 1)
    widths = power_of_two(width, LEAST_WIDTH).bit_length() - LEAST_WIDTH.bit_length() + 1
    return (decode + chunked) * widths


def arrays(batch: Batch, shape: Shape, inputs: Mapping[str, InputSpec]) -> dict[str, Any]:
    """What the step function is given besides weights and cache, filled up.

    Tokens that are none are written to the sink, the block after the last; chunks and rows that are none repeat token 0.
    """
    given = {name: batch.position if name == POSITION else batch.inputs[name] for name in inputs}
    return {
        "inputs": {name: _filled(given[name].astype(spec.dtype), shape.tokens) for name, spec in inputs.items()},
        **(_runs(batch, shape) if shape.runs else _slots(batch, shape)),
        "rows": _filled(batch.out_rows, shape.rows),
        "chunks": _chunks(batch, shape)._asdict(),  # plain dicts, so that whoever reads an export needs no type of ours
    }


def _slots(batch: Batch, shape: Shape) -> dict[str, Any]:
    """Where in the cache each token is written."""
    block = batch.tables[batch.run, batch.position // BLOCK]
    return {
        "block": _filled(block, shape.tokens, shape.capacity),
        "slot": _filled(batch.position % BLOCK, shape.tokens),
    }


def _runs(batch: Batch, shape: Shape) -> dict[str, Any]:
    """The run of each token, one that is none for tokens that are none, and the first and last token of each run."""
    first, last = (_filled(values.astype(np.int32), shape.runs) for values in (batch.starts[:-1], batch.starts[1:] - 1))
    return {"runs": {"run": _filled(batch.run, shape.tokens, shape.runs), "first": first, "last": last}}


def _chunks(batch: Batch, shape: Shape) -> Chunks:
    length, starts = shape.length, batch.starts
    per_run = -(-batch.lengths // length)
    base = np.cumsum(per_run) - per_run  # the first chunk of each run
    run = np.repeat(np.arange(len(per_run)), per_run)
    start = starts[run] + (np.arange(len(run)) - base[run]) * length
    tokens = start[:, None] + np.arange(length)
    tokens = np.where(tokens < starts[run + 1, None], tokens, start[:, None]).astype(np.int32)
    place = base[batch.run] * length + np.arange(batch.tokens) - starts[batch.run]
    tables = np.full((shape.chunks, shape.width), shape.capacity, np.int32)
    if shape.runs:
        keys = np.broadcast_to(batch.lengths[run, None], tokens.shape)
        tables[: len(run)] = starts[run, None] + np.minimum(np.arange(shape.width), batch.lengths[run, None] - 1)
    else:
        keys = batch.position[tokens] + 1
        used = batch.tables[run, : shape.width]
        tables[: len(run), : used.shape[1]] = np.where(used < 0, shape.capacity, used)
    return Chunks(
        _filled(tokens, shape.chunks),
        _filled(batch.position[tokens], shape.chunks),
        tables,
        _filled(keys, shape.chunks, 1),
        _filled(place.astype(np.int32), shape.tokens),
    )


def pairs(copies: NDArray[np.int32], sink: int) -> NDArray[np.int32]:
    """Copies filled up to a power of two by copies of the sink to itself."""
    return _filled(copies, power_of_two(len(copies)), sink)


def _filled(array: NDArray[Any], count: int, value: int = 0) -> NDArray[Any]:
    """The array with entries of `value` added to make `count`."""
    full = np.full((count, *array.shape[1:]), value, array.dtype)
    full[: len(array)] = array
    return full
