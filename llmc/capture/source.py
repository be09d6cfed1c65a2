"""Models by path or name: a local folder in the format of the `transformers` library, or an id on its hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from llmc.capture.precision import HALF
from llmc.capture.vetting import CONFIG_FILE, check_folder, check_loaded, shape_problem, stored_dtype
from llmc.errors import CaptureError

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
        check_folder(path)
    elif isinstance(model, Path) or str(model).startswith((".", "/")) or str(model).count("/") != 1:
        raise CaptureError(f"{model}: there is no such folder, and this is no hub id of the form 'owner/name'")
    module = _from_library(str(model))
    folder = path if path.exists() else _hub_folder(str(model))
    return Source(module, path.name, folder, *_special_ids(module, module.config), str(model))


def _from_library(name: str) -> nn.Module:
    """A module whose parameters are mapped as they are stored; in float32 if that is in several ways, or tables are not."""
    dtype = stored_dtype(Path(name))
    module = _loaded(name, dtype)
    if dtype != "float32" and any(buffer.dtype in HALF for buffer in module.buffers()):
        module = _loaded(name, "float32")  # tables that the library computes in the precision of the model
    return module


def _loaded(name: str, dtype: str) -> nn.Module:
    import torch
    from transformers import AutoModelForCausalLM

    options = {"dtype": getattr(torch, dtype), "use_safetensors": True, "trust_remote_code": False}
    try:
        module, found = AutoModelForCausalLM.from_pretrained(name, **options, output_loading_info=True)
    except Exception as error:  # the library raises many kinds
        reason = (_shape_problem(name) if Path(name).is_dir() else "") or str(error).strip().split("\n")[0]
        raise CaptureError(f"{name}: the transformers library cannot load this model: {reason}") from error
    check_loaded(name, module, list(found["missing_keys"]))
    return module


def _shape_problem(name: str) -> str:
    """Which tensor has another shape than the config makes it, if that is why a model in a folder cannot be loaded."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
            return shape_problem(Path(name), AutoModelForCausalLM.from_config(config, trust_remote_code=False))
    except Exception:  # then it is for another reason, which the library has told
        return ""


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
    ids = () if eos is None else tuple(eos) if isinstance(eos, list | tuple) else (eos,)
    bos = getattr(chosen, "bos_token_id", None)
    for name, value in [("bos_token_id", bos), *(("eos_token_id", one) for one in ids)]:
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise CaptureError(f"the model's {name} is {value!r}, which is no token id")
    return ids, bos
