"""Rotary positions whose frequencies depend on the length of the sequence: that length is decided when a model is compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

LONG = "longrope"
DYNAMIC = "dynamic"
"""Kinds of the `transformers` library that choose by the length (Ding et al. 2024), and that are recomputed for it."""


@dataclass
class Resolved:
    """notes: what was decided, to be reported. unlimited: whether there are frequencies for every length."""

    notes: list[str] = field(default_factory=list)
    unlimited: bool = False


@contextmanager
def resolved(module: nn.Module, length: int) -> Iterator[Resolved]:
    """While active, rotary positions of every sequence have the frequencies that the library has for one of `length` positions.

    A step does not know how long a sequence will be, and keys in the cache are rotated once. The module is left as it was.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    found, before = Resolved(), []
    for name, part in module.named_modules():
        kinds = getattr(part, "rope_type", None)
        for layer_type, kind in kinds.items() if isinstance(kinds, dict) else [(None, kinds)]:
            if not isinstance(kind, str) or not (kind == LONG or DYNAMIC in kind):
                continue
            prefix = f"{layer_type}_" if layer_type else ""
            buffer: Any = getattr(part, f"{prefix}inv_freq")
            scaling = next(a for a in (f"{prefix}attention_scaling", "attention_scaling") if hasattr(part, a))
            before.append((part, {"rope_type": part.rope_type, f"{prefix}inv_freq": buffer, scaling: getattr(part, scaling)}))
            frequencies, factor = ROPE_INIT_FUNCTIONS[kind](part.config, buffer.device, seq_len=length, layer_type=layer_type)
            now: Any = part.rope_type
            fixed = {**now, layer_type: "default"} if isinstance(now, dict) else "default"
            for attribute, value in (("rope_type", fixed), (f"{prefix}inv_freq", frequencies), (scaling, factor)):
                setattr(part, attribute, value)
            found.notes.append(
                f"{name}: rotary frequencies of type '{kind}' are those of {length} positions, for all sequences"
            )
            found.unlimited |= DYNAMIC in kind
    try:
        yield found
    finally:
        for part, values in reversed(before):
            for attribute, value in values.items():
                setattr(part, attribute, value)
