"""Weights that are on disk stay there: a captured tensor becomes a reference into the checkpoint where both say the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from llmc.ir.formats import DENSE_DTYPES, Dense
from llmc.ir.program import Program
from llmc.ir.weights import Computed, Loaded, Stored, Weight, opened, stamp_of

BLOCK = 1024
"""Rows that are compared at a time."""


def map_weights(program: Program, module: nn.Module, folder: Path) -> Program:
    """The program with weights read from the safetensors files of a folder, in the precision they have there.

    A weight is mapped if a tensor of the files has the same shape and, as float32, the same bits: first tried are those of its
    names, then others that begin alike, for the library may have changed names as it loaded them. What is computed from
    weights is computed from mapped ones.
    """
    files = Files(folder)
    names: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        names.setdefault(tensor.data_ptr(), []).append(name)
    done: dict[Weight, Weight] = {}

    def mapped(weight: Weight) -> Weight:
        if weight not in done:
            if isinstance(weight, Computed):
                done[weight] = Computed(weight.function, tuple(map(mapped, weight.bases)), weight.shape, weight.dtype)
            elif isinstance(weight, Stored):
                done[weight] = files.find(weight.tensor, names.get(weight.tensor.data_ptr(), [])) or weight
        return done.get(weight, weight)

    return Program(program.graph, {name: mapped(weight) for name, weight in program.weights.items()}, program.outputs)


class Files:
    """The tensors of a folder's safetensors files."""

    def __init__(self, folder: Path) -> None:
        self.paths: dict[str, Path] = {}
        self._alike: dict[tuple[object, ...], list[str]] | None = None
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as handle:
                self.paths.update(dict.fromkeys(handle.keys(), path))

    def find(self, tensor: Tensor, names: list[str]) -> Loaded | None:
        """The tensor as one of the files, or None."""
        for name in (name for name in self._candidates(tensor, names) if name in self.paths):
            stored = self.get(name)
            dtype = str(stored.dtype).removeprefix("torch.")
            if dtype in DENSE_DTYPES and same(stored, tensor):
                return Loaded(self.paths[name], {"values": name}, tuple(stored.shape), Dense(dtype))
        return None

    def get(self, name: str) -> Tensor:
        """A tensor, mapped."""
        path = self.paths[name]
        return opened(path, stamp_of(path)).get_tensor(name)

    def _candidates(self, tensor: Tensor, names: list[str]) -> Iterator[str]:
        yield from names
        if names:  # a parameter, or a buffer that is kept
            if self._alike is None:
                self._alike = {}
                for name in self.paths:
                    self._alike.setdefault(beginning(self.get(name)), []).append(name)
            yield from self._alike.get(beginning(tensor), [])


def beginning(tensor: Tensor) -> tuple[object, ...]:
    """Shape and first numbers."""
    return tuple(tensor.shape), *tensor.flatten()[:16].float().tolist()


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same in float32, compared by rows where their dtypes differ."""
    if a.shape != b.shape:
        return False
    if a.dtype == b.dtype or not a.shape:
        return torch.equal(a.float(), b.float()) if not a.shape else torch.equal(a, b)
    rows = range(0, a.shape[0], BLOCK)
    return all(torch.equal(a[i : i + BLOCK].float(), b[i : i + BLOCK].float()) for i in rows)
