"""Models by path or name: a local folder in the format of the `transformers` library, or an id on its hub."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from llmc.errors import CaptureError

CONFIG_FILE = "config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Source:
    """A module in memory with what stood beside it: its folder (tokenizer, weights) and the ids that end and begin a text."""

    module: nn.Module
    name: str
    folder: Path | None = None
    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    origin: str = field(default="")

    @property
    def architecture(self) -> str:
        """The module's class, if it is one of the `transformers` library; else ""."""
        return type(self.module).__name__ if hasattr(getattr(self.module, "config", None), "model_type") else ""


def open_source(model: Any) -> Source:
    """What the user named: an nn.Module, a folder, or a hub id. Raises CaptureError saying what is missing where."""
    if isinstance(model, nn.Module):
        config = getattr(model, "config", None)
        return Source(model, type(model).__name__, None, *_special_ids(model, config))
    if not isinstance(model, str | Path):
        raise CaptureError(f"llmc compiles an nn.Module, a folder or a hub id, not {type(model).__name__}")
    path = Path(model)
    if path.exists():
        _check_folder(path)
    elif isinstance(model, Path) or str(model).startswith((".", "/")) or str(model).count("/") != 1:
        raise CaptureError(f"{model}: there is no such folder, and this is no hub id of the form 'owner/name'")
    module = _from_library(str(model))
    folder = path if path.exists() else _hub_folder(str(model))
    return Source(module, path.name, folder, *_special_ids(module, module.config), str(model))


def _check_folder(path: Path) -> None:
    config = path / CONFIG_FILE
    if not path.is_dir() or not config.is_file():
        raise CaptureError(f"{path}: a model is a folder with a {CONFIG_FILE}; this one has none")
    try:
        data = json.loads(config.read_text())
    except ValueError as error:
        raise CaptureError(f"{config}: not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise CaptureError(f"{config}: not a JSON object")
    if not any(path.glob("*.safetensors")):
        raise CaptureError(f"{path}: no weights in safetensors format; other formats are not loaded, for they can run code")


def _from_library(name: str) -> nn.Module:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, use_safetensors=True, trust_remote_code=False)
    except Exception as error:  # the library raises many kinds
        reason = str(error).strip().split("\n")[0]
        raise CaptureError(f"{name}: the transformers library cannot load this model: {reason}") from error


def _hub_folder(name: str) -> Path | None:
    """Where the library keeps a model of its hub, the files of its tokenizer fetched too if it has them."""
    from transformers.utils import cached_file

    found = cached_file(name, CONFIG_FILE)
    for file in TOKENIZER_FILES:
        cached_file(name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
    return Path(found).parent if found else None


def _special_ids(module: nn.Module, config: Any) -> tuple[tuple[int, ...], int | None]:
    """Ids that end and begin a text, from the generation config where there is one."""
    chosen = getattr(module, "generation_config", None) or config
    eos = getattr(chosen, "eos_token_id", None)
    ids = () if eos is None else tuple(eos) if isinstance(eos, list | tuple) else (int(eos),)
    bos = getattr(chosen, "bos_token_id", None)
    return ids, bos
