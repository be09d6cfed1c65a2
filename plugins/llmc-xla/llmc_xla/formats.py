"""Weights on the device in the formats that they are stored in, and the products and look-ups that read them so."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch
from jax import Array, lax
from numpy.typing import NDArray
from torch import Tensor

from llmc.ir.weights import Weight

CHUNK_ELEMENTS = 1 << 24
"""Elements of a weight read at a time, so that what a quantized one is made from is never whole in memory."""

MOST_TERMS = 2**31 // 127**2
"""Products of two int8 numbers that an int32 surely holds the sum of."""


def load(weight: Weight) -> dict[str, Array]:
    """The components of a weight (`llmc.ir.formats`): float32, bfloat16, float16, int64, bool, or int8 with float32 scales."""
    if not weight.shape:
        return {name: jax.device_put(_numpy(part).copy()) for name, part in weight.parts().items()}
    count, width = weight.shape[0], math.prod(weight.shape[1:])
    step = max(CHUNK_ELEMENTS // max(width, 1), 1)
    whole: dict[str, NDArray[Any]] = {}
    for start in range(0, count, step):
        for name, part in weight.parts(start, min(start + step, count)).items():
            values = _numpy(part)
            if name not in whole:
                whole[name] = np.empty((count, *values.shape[1:]), values.dtype)
            whole[name][start : start + len(values)] = values
    return {name: jax.device_put(values) for name, values in whole.items()}


def _numpy(tensor: Tensor) -> NDArray[Any]:
    """The same bits as a NumPy array, which shares the memory."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def dense(weight: Any) -> Any:
    """A weight as it enters a computation, float32, int64 or bool; anything but a weight as it is."""
    if not isinstance(weight, dict):
        return weight
    values = weight["values"]
    if "scale" in weight:
        return values.astype(jnp.float32) * weight["scale"][:, None]
    return values.astype(jnp.float32) if jnp.issubdtype(values.dtype, jnp.floating) else values


def rows(table: dict[str, Array], ids: Array) -> Array:
    """Rows of a table `[V, D]` by ids `[...]`: float32 `[..., D]`, NaN for ids that it has no row for."""
    found = {name: jnp.take(part, ids, axis=0, mode="clip") for name, part in table.items()}
    values = found["values"].astype(jnp.float32)
    result = values * found["scale"][..., None] if "scale" in found else values
    count = table["values"].shape[0]
    return jnp.where(((ids >= 0) & (ids < count))[..., None], result, jnp.float32(jnp.nan))


def product(x: Array, weight: dict[str, Array], rounded: bool) -> Array:
    """`x @ weight.T`: x `[..., K]`, weight `[N, K]`, result `[..., N]`; rounded: x is rounded to int8 by rows first.

    Two int8 operands are multiplied as int8 and summed as int32.
    """
    values = weight["values"]
    integer = "scale" in weight
    if rounded:
        levels, scale = quantize_rows(x)
        if integer and x.shape[-1] <= MOST_TERMS:
            sums = _contract(levels.astype(jnp.int8), values, jnp.int32)
            return sums.astype(jnp.float32) * scale * weight["scale"]
        x = levels * scale
    result = _contract(x, values.astype(jnp.float32), jnp.float32)
    return result * weight["scale"] if integer else result


def _contract(a: Array, b: Array, dtype: Any) -> Array:
    """Sums over the last dimension of both."""
    return lax.dot_general(a, b, (((a.ndim - 1,), (1,)), ((), ())), preferred_element_type=dtype)


def quantize_rows(x: Array) -> tuple[Array, Array]:
    """Whole numbers from -127 to 127, as float32, and the scale of each row (last dimension, kept)."""
    largest = jnp.max(jnp.abs(x), -1, keepdims=True)
    inverse = jnp.where(largest > 0, 127 / largest, jnp.float32(0))
    return jnp.clip(jnp.round(x * inverse), -127, 127), largest / 127
