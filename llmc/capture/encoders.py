"""Models that read whole sequences: what they are called with besides ids, and the values that they give."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from llmc.errors import CaptureError
from llmc.runtime.contract import POSITION

KINDS = ("causal", "encoder")
"""causal: a language model whose positions read no later ones. encoder: any model, whose sequences may be read as a whole."""

IDS, TOKEN_TYPES, MASK = "input_ids", "token_type_ids", "attention_mask"


@dataclass(frozen=True)
class Call:
    """How a module is called while it is traced.

    ids: int64 `[1, S]`. others: further inputs of that shape, by the names that the module and the program give them.
    constants: arguments made from the ids, the same for all tokens. padding: an id that stands for no token, and that no
    sequence holds.
    """

    ids: Tensor
    others: Mapping[str, Tensor] = field(default_factory=dict)
    constants: Callable[[Tensor], dict[str, Any]] = lambda ids: {}
    padding: int | None = None


def library_part(module: nn.Module) -> Any:
    """The model of the `transformers` library that a module is, or has in it; None if there is none."""
    parts = (m for m in module.modules() if hasattr(m, "set_attn_implementation") and hasattr(m, "config"))
    return next(parts, None)


def call_of(module: nn.Module, example_inputs: Any, length: int) -> Call:
    """How to call an encoder, from a user's example, or for a model of the library from its config.

    Raises CaptureError if the example cannot be used.
    """
    config = getattr(module, "config", None)
    padding = getattr(config or getattr(library_part(module), "config", None), "pad_token_id", None)
    if example_inputs is not None:
        return _given(example_inputs, padding)
    if config is None:
        name = type(module).__name__
        raise CaptureError(f"{name} needs example_inputs, its arguments by name: {{'input_ids': int64 [1, S]}}")
    usable = [token for token in range(7) if token != padding][:5]
    ids = torch.tensor(usable)[torch.arange(length) % len(usable)][None]
    types = getattr(config, "type_vocab_size", None)
    if TOKEN_TYPES not in inspect.signature(module.forward).parameters or not types:
        return Call(ids, padding=padding)  # a model without a table of types may take them for ids of its vocabulary
    if types > 1:
        return Call(ids, {TOKEN_TYPES: torch.arange(length)[None] % 2}, padding=padding)
    return Call(ids, constants=lambda given: {TOKEN_TYPES: torch.zeros_like(given)}, padding=padding)


def _given(example_inputs: Any, padding: int | None) -> Call:
    if isinstance(example_inputs, tuple | list) and len(example_inputs) == 1:
        example_inputs = {"input_ids": example_inputs[0]}
    if not isinstance(example_inputs, Mapping) or not example_inputs:
        raise CaptureError("example_inputs of an encoder are (ids,), or its arguments by name, the ids first")
    first, *rest = example_inputs.items()
    taken = next((name for name, _ in rest if name in (IDS, POSITION)), None)
    if taken is not None:
        raise CaptureError(f"example input '{taken}' has a name that is a program's own; rename the argument")
    for name, value in (first, *rest):
        if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.ndim != 2 or value.shape[1] < 2:
            raise CaptureError(f"example input '{name}' must be int64 [1, S] with S of at least 2")
        if value.shape != first[1].shape:
            raise CaptureError(f"example input '{name}' should have a number for each of the ids, {list(first[1].shape)}")
    others = {name: value[:1].contiguous() for name, value in rest if name != MASK}
    if MASK not in dict(rest):
        return Call(first[1][:1].contiguous(), others, padding=padding)
    if not bool((dict(rest)[MASK] == 1).all()):
        raise CaptureError(f"'{MASK}' must be all ones: batches are ragged, and have no padding")
    return Call(first[1][:1].contiguous(), others, lambda ids: {MASK: torch.ones_like(ids)}, padding)


def outputs_of(result: Any, name: str) -> dict[str, Tensor]:
    """The tensors that a module returns, by name; what is no tensor is left out. Raises CaptureError if there is none."""
    if isinstance(result, Tensor):
        return {"output": result}
    fields = result._asdict() if hasattr(result, "_asdict") else result
    if isinstance(fields, tuple | list):
        fields = {f"output_{i}": value for i, value in enumerate(fields)}
    found = {str(key): value for key, value in dict(fields).items() if isinstance(value, Tensor)} if fields else {}
    if not found:
        raise CaptureError(f"{name} returns {type(result).__name__}, with no tensor in it")
    return found
