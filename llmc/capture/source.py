"""Models by path or name: a local folder in the format of the `transformers` library, or an id on its hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from llmc.capture.precision import HALF
from llmc.capture.sentences import SentenceModel, is_sentence_folder, most_tokens, sentence_model, transformer_folder
from llmc.capture.vetting import CONFIG_FILE, check_folder, check_loaded, shape_problem, stored_dtype
from llmc.errors import CaptureError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Source:
    """A module in memory with what stood beside it: its folder (tokenizer, weights) and the ids that end and begin a text.

    most_tokens: what texts are cut to by who made the model, or None.
    """

    module: nn.Module
    name: str
    folder: Path | None = None
    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    origin: str = field(default="")
    most_tokens: int | None = None

    @property
    def kind(self) -> str:
        """"encoder" for a model of the `transformers` library whose class continues no texts; else "causal"."""
        generates = getattr(self.module, "can_generate", None)
        encodes = isinstance(self.module, SentenceModel) or (generates is not None and not generates())
        return "encoder" if encodes else "causal"

    @property
    def stored(self) -> nn.Module:
        """The part of the module whose weights are in the folder, by the names that they have there."""
        return self.module.transformer if isinstance(self.module, SentenceModel) else self.module

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
    if path.exists() and is_sentence_folder(path):
        return _sentence_source(path)
    if path.exists():
        check_folder(path)
    elif isinstance(model, Path) or str(model).startswith((".", "/")) or str(model).count("/") != 1:
        raise CaptureError(f"{model}: there is no such folder, and this is no hub id of the form 'owner/name'")
    module = _from_library(str(model))
    folder = path if path.exists() else _hub_folder(str(model))
    return Source(module, path.name, folder, *_special_ids(module, module.config), str(model))


def _sentence_source(folder: Path) -> Source:
    inner = transformer_folder(folder)
    check_folder(inner)
    module = sentence_model(folder, _from_library(str(inner), "AutoModel", unused=("pooler.",)))
    return Source(module, folder.name, inner, *_special_ids(module, module.config), str(folder), most_tokens(inner))


HEADS = ("CausalLM", "MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")
"""Classes of the library end in one of these, which its public automatic classes do too."""


def _automatic(architectures: Any) -> str:
    """The automatic class that opens a model of the class that its config names; of none, a causal language model."""
    name = architectures[0] if isinstance(architectures, list) and architectures else ""
    head = next((head for head in HEADS if str(name).endswith(f"For{head}")), None)
    bare = str(name).endswith("Model") and not str(name).endswith("HeadModel")
    return f"AutoModelFor{head}" if head else "AutoModel" if bare else "AutoModelForCausalLM"


def _from_library(name: str, automatic: str = "", unused: tuple[str, ...] = ()) -> Any:
    """A module whose parameters are mapped as they are stored; in float32 if that is in several ways, or tables are not.

    automatic: a class of the library; the one that the config asks for by default. Weights under `unused` may be missing.
    """
    dtype = stored_dtype(Path(name))
    module = _loaded(name, dtype, automatic, unused)
    if dtype != "float32" and any(buffer.dtype in HALF for buffer in module.buffers()):
        module = _loaded(name, "float32", automatic, unused)  # tables that the library computes in the precision of the model
    return module


def _loaded(name: str, dtype: str, automatic: str, unused: tuple[str, ...]) -> Any:
    import torch
    import transformers

    options = {"dtype": getattr(torch, dtype), "use_safetensors": True, "trust_remote_code": False}
    try:
        if not automatic:
            automatic = _automatic(transformers.AutoConfig.from_pretrained(name, trust_remote_code=False).architectures)
        made = getattr(transformers, automatic)
        module, found = made.from_pretrained(name, **options, output_loading_info=True)
    except Exception as error:  # the library raises many kinds
        reason = (_shape_problem(name, automatic) if Path(name).is_dir() else "") or str(error).strip().split("\n")[0]
        raise CaptureError(f"{name}: the transformers library cannot load this model: {reason}") from error
    check_loaded(name, module, [key for key in found["missing_keys"] if not key.startswith(unused or "\0")])
    return module


def _shape_problem(name: str, automatic: str) -> str:
    """Which tensor has another shape than the config makes it, if that is why a model in a folder cannot be loaded."""
    import torch
    import transformers

    try:
        with torch.device("meta"):
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
            return shape_problem(Path(name), getattr(transformers, automatic).from_config(config, trust_remote_code=False))
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
