"""Score expressions as functions on arrays."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from llmc.ir.score import VARIABLES, ScoreExpr
from llmc_xla.ops import OPS, widest


@dataclass(frozen=True)
class Variables:
    """What the variables stand for, arrays that broadcast to `[heads, queries, keys]`; all but the score int64."""

    score: Array
    head: Array
    q: Array
    k: Array


def evaluate(expr: ScoreExpr, variables: Variables) -> Array:
    """The values for every head, query and key. Functions of scores are ops of the dialect, with the same rules for dtypes."""
    if expr.kind in VARIABLES:
        return getattr(variables, expr.kind)
    if expr.kind == "const":
        return widest(expr.value)[0]
    if expr.kind == "per_head":
        return jnp.asarray(expr.value, jnp.float32)[variables.head]
    if expr.kind == "bfloat16":
        return evaluate(expr.args[0], variables).astype(jnp.bfloat16).astype(jnp.float32)
    return OPS[expr.kind](*(evaluate(arg, variables) for arg in expr.args))
