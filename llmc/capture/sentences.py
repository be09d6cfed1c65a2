"""Folders of the `sentence-transformers` library: an encoder, and what makes one embedding of its tokens, as JSON files say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from llmc.errors import CaptureError

MODULES_FILE, CONFIG_FILE, WEIGHTS_FILE = "modules.json", "config.json", "model.safetensors"
LENGTH_FILES = "sentence_*_config.json"
PREFIX = "sentence_transformers."
KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
"""Modules that are understood, by the last part of their type."""

WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "pooling_mode_cls_token": lambda x: x[:, 0],
    "pooling_mode_lasttoken": lambda x: x[:, -1],
    "pooling_mode_mean_tokens": lambda x: x.mean(1),
    "pooling_mode_max_tokens": lambda x: x.amax(1),
}
"""Ways of pooling tokens `[1, S, D]`; of several the results stand side by side, in this order of the library's."""

ACTIVATIONS = {"torch.nn.modules.activation.Tanh": nn.Tanh, "torch.nn.modules.linear.Identity": nn.Identity,
               "torch.nn.modules.activation.ReLU": nn.ReLU, "torch.nn.modules.activation.GELU": nn.GELU}  # fmt: skip


WIDEST = 2**16
"""Of a dense layer."""


class Pooling(nn.Module):
    """`[1, S, D]` to `[1, D]`, or a multiple of D."""

    def __init__(self, ways: list[str]) -> None:
        super().__init__()
        self.ways = ways

    def forward(self, x: Tensor) -> Tensor:
        found = [WAYS[way](x) for way in self.ways]
        return found[0] if len(found) == 1 else torch.cat(found, -1)


class Normalize(nn.Module):
    """Rows of length one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, p=2, dim=-1)


class SentenceModel(nn.Module):
    """`input_ids` and `token_type_ids` `[1, S]` to `embedding [1, D]` and the `tokens [1, S, H]` that it is made of."""

    def __init__(self, transformer: Any, stages: list[nn.Module]) -> None:
        super().__init__()
        self.transformer, self.stages, self.config = transformer, nn.Sequential(*stages), transformer.config

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> dict[str, Tensor]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        tokens = self.transformer(input_ids, **types).last_hidden_state
        return {"embedding": self.stages(tokens), "tokens": tokens}


class TypelessSentenceModel(SentenceModel):
    """The same of an encoder that knows no types of tokens."""

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return super().forward(input_ids)


def is_sentence_folder(folder: Path) -> bool:
    """Whether a folder is one of the library's."""
    return (folder / MODULES_FILE).is_file()


def transformer_folder(folder: Path) -> Path:
    """Where the encoder itself lies. Raises CaptureError if the modules are not ones that are understood."""
    return _modules(folder)[0][1]


def most_tokens(folder: Path) -> int | None:
    """The tokens that texts are cut to, if the encoder's folder says so. Raises CaptureError if it is no number."""
    path = next(iter(sorted(folder.glob(LENGTH_FILES))), None)
    found = None if path is None else _read(path).get("max_seq_length")
    if found is not None and (isinstance(found, bool) or not isinstance(found, int) or found < 1):
        raise CaptureError(f"{path}: max_seq_length should be a whole number from 1 upwards, not {found!r}")
    return found


def sentence_model(folder: Path, transformer: Any) -> SentenceModel:
    """The encoder with what stands after it. Raises CaptureError naming the file and what in it cannot be."""
    import inspect

    stages: list[nn.Module] = []
    for kind, place in _modules(folder)[1:]:
        stages.append({"Pooling": _pooling, "Dense": _dense, "Normalize": lambda _: Normalize()}[kind](place))
    typed = "token_type_ids" in inspect.signature(transformer.forward).parameters
    return (SentenceModel if typed else TypelessSentenceModel)(transformer, stages).eval()


def _modules(folder: Path) -> list[tuple[str, Path]]:
    path = folder / MODULES_FILE
    listed = _read(path, list)
    found = []
    for entry in listed:
        kind, place = (entry.get("type"), entry.get("path", "")) if isinstance(entry, dict) else (None, "")
        name = kind.rsplit(".", 1)[-1] if isinstance(kind, str) and kind.startswith(PREFIX) else None
        if name not in KINDS:
            raise CaptureError(f"{path}: a module of type {kind!r}; known: {', '.join(KINDS)}")
        relative = PurePosixPath(place) if isinstance(place, str) else PurePosixPath("/")
        if relative.is_absolute() or ".." in relative.parts or "\\" in str(place) or "\0" in str(place):
            raise CaptureError(f"{path}: '{place}' is not a folder inside the model's")
        found.append((name, folder / relative))
    order = [name for name, _ in found]
    if order[:2] != ["Transformer", "Pooling"] or set(order[2:]) & {"Transformer", "Pooling"}:
        known = "a transformer, pooling, and then dense layers and norms are known"
        raise CaptureError(f"{path}: modules {', '.join(order)}; {known}")
    return found


def _pooling(folder: Path) -> Pooling:
    path = folder / CONFIG_FILE
    config = _read(path)
    chosen = [name for name, value in config.items() if name.startswith("pooling_mode") and value is True]
    named = config.get("pooling_mode")
    if isinstance(named, str):
        suffix = {"cls": "cls_token", "lasttoken": "lasttoken"}.get(named, f"{named}_tokens")
        chosen = [f"pooling_mode_{suffix}"]
    unknown = [name for name in chosen if name not in WAYS]
    if unknown or not chosen:
        what = f"{unknown[0]} is no" if unknown else "there is no"
        raise CaptureError(f"{path}: {what} way of pooling that is known: {', '.join(WAYS)}")
    return Pooling([name for name in WAYS if name in chosen])


def _dense(folder: Path) -> nn.Sequential:
    path = folder / CONFIG_FILE
    config = _read(path)
    given, made = config.get("in_features"), config.get("out_features")
    activation = ACTIVATIONS.get(str(config.get("activation_function")))
    whole = isinstance(given, int) and isinstance(made, int)
    if not whole or not (0 < given < WIDEST and 0 < made < WIDEST) or activation is None:
        raise CaptureError(f"{path}: in_features {given!r}, out_features {made!r} or the activation cannot be")
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise CaptureError(f"{weights}: there is no such file; weights in other formats are not loaded, for they can run code")
    layer = nn.Linear(given, made, bias=config.get("bias") is not False)
    try:
        with safe_open(weights, framework="pt") as handle:
            tensors = {name.removeprefix("linear."): handle.get_tensor(name).float() for name in handle.keys()}  # noqa: SIM118
        layer.load_state_dict(tensors)
    except Exception as error:  # safetensors raises its own type
        reason = str(error).strip().split("\n")[0]
        raise CaptureError(f"{weights}: not the weights of a dense layer {given} to {made}: {reason}") from error
    return nn.Sequential(layer, activation())


def _read(path: Path, kind: type = dict) -> Any:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CaptureError(f"{path}: cannot be read: {error}") from error
    if not isinstance(data, kind):
        raise CaptureError(f"{path}: should be {'a list' if kind is list else 'an object'}")
    return data
