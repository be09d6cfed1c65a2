"""Weights on the device in the formats that they are stored in, and the products and look-ups that read them so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch
from jax import Array, lax
from numpy.typing import NDArray
from torch import Tensor

from llmc.ir.formats import MIDDLE
from llmc.ir.weights import Weight

CHUNK_ELEMENTS = 1 << 24
"""Elements of a weight read at a time, so that what a quantized one is made from is never whole in memory."""

MOST_TERMS = 2**31 // 127**2
"""Products of two int8 numbers that an int32 surely holds the sum of."""


def load(weight: Weight) -> dict[str, Array]:
    """The components of a weight (`llmc.ir.formats`), in the dtypes that they are stored in."""
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


@dataclass(frozen=True)
class Matrix:
    """A weight within a step: its components, and its shape, which packed ones do not tell."""

    parts: Mapping[str, Array]
    shape: tuple[int, ...]

    @property
    def values(self) -> Array:
        return self.parts["values"]

    @property
    def by_rows(self) -> bool:
        """Whether it is whole numbers with a scale for each row."""
        return self.values.dtype == jnp.int8


def dense(weight: Any) -> Any:
    """A weight as it enters a computation, float32, int64 or bool; anything but a weight as it is."""
    if not isinstance(weight, Matrix):
        return weight
    values = weight.values
    if "scale" in weight.parts:
        return decoded(weight.parts)[..., : weight.shape[-1]]
    return values.astype(jnp.float32) if jnp.issubdtype(values.dtype, jnp.floating) else values


def decoded(parts: Mapping[str, Array]) -> Array:
    """Whole numbers times their scales, float32: `[..., K]`, those of four bits `[..., Kp]`, filled up to whole groups."""
    values, scale = parts["values"], parts["scale"].astype(jnp.float32)[..., None]
    if values.dtype == jnp.int8:
        return values.astype(jnp.float32) * scale
    codes = jnp.stack((values & 15, values >> 4), -1).reshape(*scale.shape[:-1], -1).astype(jnp.float32)
    zero = parts["zero"].astype(jnp.float32)[..., None] if "zero" in parts else MIDDLE
    return ((codes - zero) * scale).reshape(*values.shape[:-1], -1)


def rows(table: Matrix, ids: Array) -> Array:
    """Rows of a table `[V, D]` by ids `[...]`: float32 `[..., D]`, NaN for ids that it has no row for."""
    found = {name: jnp.take(part, ids, axis=0, mode="clip") for name, part in table.parts.items()}
    count, width = table.shape
    return jnp.where(((ids >= 0) & (ids < count))[..., None], dense(Matrix(found, (*ids.shape, width))), jnp.float32(jnp.nan))


def product(x: Array, weight: Matrix, activations: str) -> Array:
    """`x @ weight.T`: x `[..., K]`, weight `[N, K]`, result `[..., N]`; activations: what x is rounded to first.

    Two int8 operands are multiplied as int8 and summed as int32, two of bfloat16 summed as float32. Codes of four bits are
    decoded on the way.
    """
    if activations == "bfloat16":
        x = lax.reduce_precision(x, 8, 7)  # XLA would leave out a conversion there and back
        if weight.values.dtype == jnp.bfloat16:
            return _contract(x.astype(jnp.bfloat16), weight.values, jnp.float32)
    if activations == "int8":
        levels, scale = quantize_rows(x)
        if weight.by_rows and x.shape[-1] <= MOST_TERMS:
            sums = _contract(levels.astype(jnp.int8), weight.values, jnp.int32)
            return sums.astype(jnp.float32) * scale * weight.parts["scale"]
        x = levels * scale
    if weight.by_rows:
        return _contract(x, weight.values.astype(jnp.float32), jnp.float32) * weight.parts["scale"]
    return _contract(x, dense(weight), jnp.float32)


def _contract(a: Array, b: Array, dtype: Any) -> Array:
    """Sums over the last dimension of both."""
    return lax.dot_general(a, b, (((a.ndim - 1,), (1,)), ((), ())), preferred_element_type=dtype)


def quantize_rows(x: Array) -> tuple[Array, Array]:
    """Whole numbers from -127 to 127, as float32, and the scale of each row (last dimension, kept)."""
    largest = jnp.max(jnp.abs(x), -1, keepdims=True)
    inverse = 127 / largest
    inverse = jnp.where(inverse < jnp.inf, inverse, jnp.float32(0))  # of rows that are zero, or nearly
    return jnp.clip(jnp.round(x * inverse), -127, 127), largest / 127
