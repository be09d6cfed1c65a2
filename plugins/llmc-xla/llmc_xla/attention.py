"""Attention over a cache of blocks, or over the tokens of a step, a chunk of queries at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from llmc.ir.score import ScoreExpr
from llmc_xla.scores import Variables, evaluate

MOST_ELEMENTS = 1 << 25
"""Scores, or numbers of gathered keys, that are in memory at once; chunks beyond that take their turn."""


class Chunks(NamedTuple):
    """The tokens of a step by chunks: N chunks of up to L consecutive tokens of one run.

    tokens: int32 `[N, L]`, which token; a place that is empty repeats the first. position: int32 `[N, L]`, where in its
    sequence. tables: int32 `[N, W]`, the blocks of the sequence, or its tokens if it is whole. keys: int32 `[N, L]`, how many
    keys of the sequence there are. place: int32 `[T]`, n * L + l of each token.
    """

    tokens: Any
    position: Any
    tables: Any
    keys: Any
    place: Any


def attend(
    q: Array,
    cache: tuple[Array, Array],
    sinks: Array | None,
    bias: Array | None,
    chunks: Chunks,
    scale: float,
    score: ScoreExpr,
    admits: ScoreExpr,
    causal: bool = True,
) -> Array:
    """q `[T, H, D]` over keys and values `[blocks, BLOCK, G, D]` (blocks of one, of whole sequences): `[T, H, Dv]`."""
    keys, values = cache
    heads, groups = q.shape[1], keys.shape[2]
    span = chunks.tables.shape[1] * keys.shape[1]

    def one(chunk: tuple[Array, Array, Array, Array]) -> Array:
        """A chunk's tokens `[L]`, positions `[L]`, table `[W]` and numbers of keys `[L]`: `[L, H, Dv]`."""
        tokens, position, table, there = chunk
        position, k_position = position.astype(jnp.int64), jnp.arange(span, dtype=jnp.int64)
        query = q[tokens].reshape(len(tokens), groups, heads // groups, -1)
        key, value = (stored[table].reshape(span, groups, -1) for stored in (keys, values))
        # Nothing times NaN is NaN, and neither what a block holds beyond the written positions nor a later token of the chunk
        # may reach a query: such values count as nought, and those that a query does admit make its result NaN afterwards.
        infinite = ~jnp.isfinite(value).all(-1)
        value = jnp.where(infinite[..., None], jnp.float32(0), value)
        raw = jnp.einsum("lgrd,kgd->grlk", query, key).reshape(heads, len(tokens), span) * scale
        q_position, k_position = position[None, :, None], k_position[None, None, :]
        variables = Variables(raw, jnp.arange(heads)[:, None, None], q_position, k_position)
        allowed = evaluate(admits, variables).astype(bool) & (k_position < there[None, :, None])
        allowed = jnp.broadcast_to(allowed, raw.shape)
        scores = evaluate(score, variables).astype(jnp.float32)
        if bias is not None:
            most = bias.shape[1] // 2
            scores = scores + bias[:, jnp.clip((k_position - q_position)[0], -most, most) + most]
        scores = jnp.where(allowed, scores, jnp.float32(-jnp.inf))
        weights = softmax(jnp.broadcast_to(scores, raw.shape), sinks)
        mixed = jnp.einsum("grlk,kgd->lgrd", weights.reshape(groups, -1, len(tokens), span), value)
        met = allowed.reshape(groups, -1, len(tokens), span).astype(jnp.float32), infinite.astype(jnp.float32)
        reached = jnp.einsum("grlk,kg->lgr", *met) > 0
        mixed = jnp.where(reached[..., None], jnp.float32(jnp.nan), mixed)
        return mixed.reshape(len(tokens), heads, -1)

    count, length = chunks.tokens.shape
    most = max(heads * length * span, groups * span * (keys.shape[3] + values.shape[3]))
    mapped = chunks.tokens, chunks.position, chunks.tables, chunks.keys
    at_once = MOST_ELEMENTS // most
    mixed = jax.vmap(one)(mapped) if count <= at_once else lax.map(one, mapped, batch_size=max(at_once, 1))
    return mixed.reshape(count * length, heads, -1)[chunks.place]


def softmax(scores: Array, sinks: Array | None) -> Array:
    """Over the last dimension of `[H, L, K]`, with each head's sink `[H]` added to its denominator."""
    if sinks is None:
        return jax.nn.softmax(scores, axis=-1)
    column = jnp.broadcast_to(sinks[:, None, None], (*scores.shape[:2], 1))
    return jax.nn.softmax(jnp.concatenate((scores, column), -1), axis=-1)[..., :-1]
