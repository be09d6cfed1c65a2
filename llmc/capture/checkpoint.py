"""Weights that are on disk stay there: a captured tensor becomes a reference into the checkpoint where both say the same."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from llmc.ir.formats import DENSE_DTYPES, Dense
from llmc.ir.program import Program
from llmc.ir.weights import Loaded, Stored, Weight


def map_weights(program: Program, module: nn.Module, folder: Path) -> Program:
    """The program with weights read from the safetensors files of a folder, in the precision they have there.

    A weight is mapped only if a tensor of one of its names has the same shape and, as float32, the same bits.
    """
    index = _tensors(folder)
    names: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        names.setdefault(tensor.data_ptr(), []).append(name)
    weights: dict[str, Weight] = {}
    for name, weight in program.weights.items():
        weights[name] = weight
        if isinstance(weight, Stored):
            for candidate in names.get(weight.tensor.data_ptr(), []):
                loaded = _matching(index, candidate, weight)
                if loaded is not None:
                    weights[name] = loaded
                    break
    return Program(program.graph, weights, program.outputs)


def _tensors(folder: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as handle:
            found.update(dict.fromkeys(handle.keys(), path))
    return found


def _matching(index: dict[str, Path], name: str, weight: Stored) -> Loaded | None:
    if name not in index:
        return None
    with safe_open(index[name], framework="pt") as handle:
        tensor = handle.get_tensor(name)
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DENSE_DTYPES or tensor.shape != weight.tensor.shape or not torch.equal(tensor.float(), weight.tensor):
        return None
    return Loaded(index[name], {"values": name}, tuple(tensor.shape), Dense(dtype))
