"""The files of a checkpoint are looked at before a library is let at them: what they claim must be possible, and meant.

A library that reads a damaged or hostile checkpoint fails far from the cause, or does not fail at all: a tensor that is missing
is drawn at random, one that comes twice is read once, a billion layers are built until memory is full.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from llmc.errors import CaptureError

CONFIG_FILE, WEIGHTS = "config.json", "*.safetensors"
SIZES = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings", "n_embd", "n_layer", "n_head", "n_positions", "num_layers",
}  # fmt: skip
"""Keys of a config that count something, where a model has them."""

LAYERS = {"num_hidden_layers", "n_layer", "num_layers"}

LARGEST = 1 << 40
"""No number of a config counts more than this."""

HEADER_BYTES = 100_000_000
"""The longest header that the format allows."""


def check_folder(folder: Path) -> None:
    """Raise CaptureError naming the file and what is wrong with it: config, weights, or the list of a checkpoint in shards."""
    path = folder / CONFIG_FILE
    if not folder.is_dir() or not path.is_file():
        raise CaptureError(f"{folder}: a model is a folder with a {CONFIG_FILE}; this one has none")
    config = _object(path)
    for where, value in _numbers(config):
        if not math.isfinite(value) or (abs(value) > LARGEST and where.rpartition(".")[2] in SIZES):
            raise CaptureError(f"{path}: {where} is {value}; no model has that")
        if where.rpartition(".")[2] in SIZES and value < 1:
            raise CaptureError(f"{path}: {where} is {value}; it must be at least 1")
    files = sorted(folder.glob(WEIGHTS))
    if not files:
        raise CaptureError(f"{folder}: no weights in safetensors format; other formats are not loaded, for they can run code")
    for index in folder.glob(f"{WEIGHTS}.index.json"):
        _check_index(index)
    tensors = sum(_check_weights(file) for file in files)
    for where, value in _numbers(config):
        if where in LAYERS and value > tensors:
            raise CaptureError(f"{path}: {where} is {value}, but the checkpoint has {tensors} tensors only")


def check_loaded(folder: str, module: nn.Module, missing: list[str]) -> None:
    """Raise CaptureError for parameters that the checkpoint does not have, or has as whole numbers.

    missing: names that the library did not find, and would have drawn at random.
    """
    if missing:
        names = sorted(missing)
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise CaptureError(f"{folder}: the checkpoint lacks '{names[0]}'{more}, which the model in {CONFIG_FILE} has")
    if not Path(folder).is_dir():
        return
    parameters = dict(module.named_parameters())
    for path in sorted(Path(folder).glob(WEIGHTS)):
        for name, dtype in _dtypes(path).items():
            if name in parameters and not dtype.startswith(("F", "BF")):
                raise CaptureError(f"{path}: the weights '{name}' are of dtype {dtype}, which is not floating point")


def stored_dtype(folder: Path) -> str:
    """The dtype of all floats of a checkpoint; float32 if they are of several, or if there is no such folder."""
    found = {dtype for path in folder.glob(WEIGHTS) for dtype in _dtypes(path).values() if dtype.startswith(("F", "BF"))}
    names = {"BF16": "bfloat16", "F16": "float16"}
    return names.get(found.pop(), "float32") if len(found) == 1 else "float32"


def shape_problem(folder: Path, module: nn.Module) -> str:
    """Which tensor of a checkpoint has another shape than a module (on the meta device) makes it; empty if none has."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for path in sorted(folder.glob(WEIGHTS)):
        for name, facts in _header(path).items():
            shape = tuple(facts.get("shape", ()))
            if expected.get(name, shape) != shape:
                return f"{path}: '{name}' is {list(shape)}, but {CONFIG_FILE} makes it {list(expected[name])}"
    return ""


def _object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CaptureError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise CaptureError(f"{path}: not a JSON object")
    return data


def _numbers(data: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a config with the path of its keys."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _numbers(value, f"{where}.{key}" if where else key)
    elif isinstance(data, list):
        for value in data:
            yield from _numbers(value, where)
    elif isinstance(data, int | float) and not isinstance(data, bool):
        yield where, data


def _check_index(path: Path) -> None:
    """Every shard must be a file of the folder itself."""
    names = _object(path).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CaptureError(f"{path}: 'weight_map' should give a file for each tensor")
    for name in sorted(set(names.values())):
        if PurePosixPath(name).name != name or "\\" in name:
            raise CaptureError(f"{path}: the shard '{name}' is not a file of this folder")
        if not (path.parent / name).is_file():
            raise CaptureError(f"{path}: the shard '{name}' is missing")


def _check_weights(path: Path) -> int:
    """How many tensors a file has. Raises CaptureError if it is none of the format."""
    if not path.is_file():
        raise CaptureError(f"{path}: this is not a file")
    try:
        with safe_open(path, framework="pt") as handle:
            count = len(handle.keys())
    except (SafetensorError, OSError) as error:
        raise CaptureError(f"{path}: not a whole file of the safetensors format: {error}") from error
    _header(path)
    return count


def _header(path: Path) -> dict[str, Any]:
    """What a file that the library accepts says of its tensors. Raises CaptureError if a name comes twice."""
    with path.open("rb") as file:
        [length] = struct.unpack("<Q", file.read(8))
        text = file.read(min(length, HEADER_BYTES))

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise CaptureError(f"{path}: '{twice}' comes twice in its header")
        return found

    header = json.loads(text, object_pairs_hook=once)
    return {name: facts for name, facts in header.items() if name != "__metadata__"}


def _dtypes(path: Path) -> dict[str, str]:
    return {name: facts["dtype"] for name, facts in _header(path).items()}
