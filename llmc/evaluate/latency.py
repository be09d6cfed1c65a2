"""How fast the original decodes, to set a compiled model beside it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import nn


def original_decode_speed(model: nn.Module, ids: Sequence[int], new_tokens: int) -> float:
    """Tokens a second of a `transformers` model as torch runs it: greedy, batch 1, with its own KV cache, in a bare loop.

    The first token comes from the prompt and does not count, nor does the time that the prompt takes.
    """
    with torch.no_grad():
        out = model(torch.tensor([list(ids)]), use_cache=True)
        token = out.logits[:, -1:].argmax(-1)
        began = time.perf_counter()
        for _ in range(new_tokens):
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
    return new_tokens / (time.perf_counter() - began)
