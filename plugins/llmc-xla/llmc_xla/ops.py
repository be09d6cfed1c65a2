"""One function on arrays for each op of the dialect; `attention` and `select_rows`, which see the batch, are in `step.py`.

Arrays are float32, int64 or bool, as the dialect's values are: programs are traced with 64-bit types enabled. Weights that a
function reads in their stored form are `Matrix`es of components (`formats.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from llmc_xla.formats import Matrix, dense, product, quantize_rows, rows

Function = Callable[..., Any]
ORDER = (jnp.bool_, jnp.int64, jnp.float32)


def widest(*operands: Any) -> list[Any]:
    """Operands in the widest dtype among them: bool, then int64, then float32."""
    arrays = [jnp.asarray(x, _number_dtype(x)) for x in operands]
    dtype = max((array.dtype for array in arrays), key=ORDER.index)
    return [array.astype(dtype) for array in arrays]


def _number_dtype(value: Any) -> Any:
    """Of a Python number; None for an array, which keeps its own."""
    kinds = {bool: jnp.bool_, int: jnp.int64, float: jnp.float32}
    return kinds.get(type(value))


def wide(function: Function) -> Function:
    """The function on operands of the widest dtype."""
    return lambda *operands: function(*widest(*operands))


def floating(function: Function) -> Function:
    """The function on operands made float32."""
    return lambda *operands: function(*(x.astype(jnp.float32) for x in widest(*operands)))


def power(a: Any, b: Any) -> Array:
    """`a ** b`; of whole numbers the whole part, so zero for negative exponents unless a is 1 or -1."""
    a, b = widest(a, b)
    if a.dtype != jnp.int64:
        return jnp.power(a, b)
    inverse = jnp.where(abs(a) == 1, jnp.where(b % 2 == 0, 1, a), 0)
    return jnp.where(b < 0, inverse, jnp.power(a, jnp.maximum(b, 0)))


def gelu(x: Array, *, approximate: str) -> Array:
    return jax.nn.gelu(x, approximate=approximate == "tanh")


def where(condition: Array, a: Any, b: Any) -> Array:
    a, b = widest(a, b)
    return jnp.where(condition, a, b)


def cast(x: Array, *, dtype: str) -> Array:
    return x.astype(dtype)


def embedding(ids: Array, table: Matrix) -> Array:
    """ids `[T, ...]`, result `[T, ..., D]`; NaN for an index outside the table, of which nothing can be raised here."""
    return rows(table, ids)


def linear(x: Array, weight: Matrix, bias: Array | None = None, *, activations: str = "float32") -> Array:
    """x `[T, ..., K]`, weight `[N, K]` as stored, bias `[N]`, result `[T, ..., N]`."""
    result = product(x, weight, activations)
    return result if bias is None else result + dense(bias)


def expert_linear(
    x: Array,
    chosen: Array,
    weight: Matrix,
    bias: Array | None = None,
    *,
    experts: int,
    activations: str = "float32",
) -> Array:
    """x `[T, K]` or `[T, k, K]`, chosen `[T, k]`, weight `[E * N, K]` as stored, result `[T, k, N]`.

    Every expert multiplies every row: which tokens an expert has is not known when XLA compiles.
    """
    rows = x if x.ndim == 3 else x[:, None]
    count, size = weight.shape[0] // experts, weight.shape[1]

    def of(expert: Array, result: Array) -> Array:
        parts = {name: lax.dynamic_slice_in_dim(part, expert * count, count) for name, part in weight.parts.items()}
        own = None if bias is None else lax.dynamic_slice_in_dim(dense(bias), expert * count, count)
        done = linear(rows, Matrix(parts, (count, size)), own, activations=activations)
        return jnp.where((chosen == expert)[..., None], done, result)

    return lax.fori_loop(0, experts, of, jnp.full((*chosen.shape, count), jnp.nan, jnp.float32))


def top_k(x: Array, *, k: int) -> Array:
    """Largest first; `lax.top_k` lets the first of equal ones come first."""
    return lax.top_k(x, k)[0]


def round_rows(x: Array, *, to: str) -> Array:
    """What a linear layer with such activations computes with, x `[..., K]`."""
    if to == "int8":
        levels, scale = quantize_rows(x)
        return levels * scale
    return lax.reduce_precision(x, 8, 7)


def rms_norm(x: Array, weight: Array | None = None, *, eps: float) -> Array:
    normal = x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)
    return normal if weight is None else normal * weight


def layer_norm(x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float) -> Array:
    centred = x - jnp.mean(x, -1, keepdims=True)
    normal = centred * lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + eps)
    scaled = normal if weight is None else normal * weight
    return scaled if bias is None else scaled + bias


def rope(x: Array, cos: Array, sin: Array, *, layout: str) -> Array:
    """x `[T, ..., D]`, cos and sin `[T, P]`; halves: element i turns with i + P; pairs: 2i with 2i + 1."""
    pairs = cos.shape[-1]
    shape = (x.shape[0], *[1] * (x.ndim - 2), pairs)
    cos, sin = cos.reshape(shape), sin.reshape(shape)
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    halves = layout == "halves"
    a, b = (turned[..., :pairs], turned[..., pairs:]) if halves else (turned[..., 0::2], turned[..., 1::2])
    done = (a * cos - b * sin, b * cos + a * sin)
    joined = jnp.concatenate(done, -1) if halves else jnp.stack(done, -1).reshape(turned.shape)
    return jnp.concatenate((joined, rest), -1)


ACTIVATIONS: dict[str, Function] = {
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
}


def gated(gate: Array, up: Array, *, activation: str) -> Array:
    return ACTIVATIONS[activation](gate) * up


def reduction(function: Function) -> Function:
    return lambda x, *, dims, keepdim: function(x, axis=dims, keepdims=keepdim)


def slice_(x: Array, *, dim: int, start: int, stop: int, step: int = 1) -> Array:
    return lax.slice_in_dim(x, start, stop, step, dim)


UNARY: dict[str, Function] = {
    "neg": jnp.negative,
    "abs": jnp.abs,
    "relu": jax.nn.relu,
    "logical_not": jnp.logical_not,
    "exp": floating(jnp.exp),
    "log": floating(jnp.log),
    "sqrt": floating(jnp.sqrt),
    "rsqrt": floating(lax.rsqrt),
    "sin": floating(jnp.sin),
    "cos": floating(jnp.cos),
    "tanh": floating(jnp.tanh),
    "erf": floating(lax.erf),
    "sigmoid": floating(jax.nn.sigmoid),
    "silu": jax.nn.silu,
}
BINARY: dict[str, Function] = {
    "add": wide(jnp.add),
    "sub": wide(jnp.subtract),
    "mul": wide(jnp.multiply),
    "div": floating(jnp.divide),
    "pow": power,
    "maximum": wide(jnp.maximum),
    "minimum": wide(jnp.minimum),
    "eq": wide(jnp.equal),
    "ne": wide(jnp.not_equal),
    "lt": wide(jnp.less),
    "le": wide(jnp.less_equal),
    "gt": wide(jnp.greater),
    "ge": wide(jnp.greater_equal),
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
}
OPS: dict[str, Function] = {
    **UNARY,
    **BINARY,
    "gelu": gelu,
    "where": where,
    "cast": cast,
    "embedding": embedding,
    "linear": linear,
    "expert_linear": expert_linear,
    "top_k": top_k,
    "top_k_indices": lambda x, *, k: lax.top_k(x, k)[1].astype(jnp.int64),
    "round_rows": round_rows,
    "matmul": jnp.matmul,
    "rms_norm": rms_norm,
    "layer_norm": layer_norm,
    "rope": rope,
    "gated": gated,
    "sum": reduction(lambda x, **how: jnp.sum(x.astype(jnp.int64) if x.dtype == jnp.bool_ else x, **how)),
    "mean": reduction(jnp.mean),
    "amax": reduction(jnp.max),
    "amin": reduction(jnp.min),
    "softmax": lambda x, *, dim: jax.nn.softmax(x, axis=dim),
    "reshape": lambda x, *, shape: x.reshape(x.shape[0], *shape),
    "permute": lambda x, *, dims: x.transpose(0, *dims),
    "slice": slice_,
    "concat": lambda *xs, dim: jnp.concatenate(xs, dim),
    "expand": lambda x, *, shape: jnp.broadcast_to(x, (x.shape[0], *shape)),
}
READ_AS_STORED = ("embedding", "linear", "expert_linear")
"""Ops whose weights are not converted to float32 first."""
