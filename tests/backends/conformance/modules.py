"""Modules for the tests: two written by hand as people write them, and small ones of the library."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Fused attention over one matrix of queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.size()
        q, k, v = self.qkv(x).split(c, dim=2)
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).contiguous().view(b, t, c))


class LearnedPositions(nn.Module):
    """Learned positions from `arange`, fused causal attention, a head over the last position alone."""

    def __init__(self, vocab: int = 101, width: int = 60, heads: int = 3, layers: int = 3, context: int = 64) -> None:
        super().__init__()
        self.context = context
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.norms = nn.ModuleList(nn.ModuleList((nn.LayerNorm(width), nn.LayerNorm(width))) for _ in range(layers))
        self.attentions = nn.ModuleList(SelfAttention(width, heads) for _ in range(layers))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(layers)
        )
        self.final = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.tokens.weight

    def hidden(self, ids: Tensor) -> Tensor:
        _, t = ids.size()
        assert t <= self.context, "the sequence is too long"
        x = self.tokens(ids) + self.positions(torch.arange(0, t, dtype=torch.long))
        for norms, attention, mlp in zip(self.norms, self.attentions, self.mlps, strict=True):
            x = x + attention(norms[0](x))  # type: ignore[index]
            x = x + mlp(norms[1](x))  # type: ignore[index]
        return self.final(x)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return self.head(self.hidden(ids)[:, [-1], :]), None


class TrilAttention(nn.Module):
    """Attention spelled out over a buffer of ones below the diagonal, one layer of a bigram-like model."""

    mask: Tensor

    def __init__(self, vocab: int = 67, width: int = 48, heads: int = 4, layers: int = 2, context: int = 48) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocab, width), nn.Parameter(torch.randn(1, context, width) * 0.1)
        self.q, self.k, self.v, self.o = (
            nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers)) for _ in range(4)
        )
        self.up, self.down = (
            nn.ModuleList(nn.Linear(a, b) for _ in range(layers)) for a, b in ((width, 2 * width), (2 * width, width))
        )
        self.heads, self.head = heads, nn.Linear(width, vocab)
        self.register_buffer("mask", torch.tril(torch.ones(context, context)).view(1, 1, context, context))

    def forward(self, ids: Tensor) -> Tensor:
        b, t = ids.shape
        x = self.embed(ids) + self.place[:, :t]
        for q, k, v, o, up, down in zip(self.q, self.k, self.v, self.o, self.up, self.down, strict=True):
            size = x.shape[-1] // self.heads
            heads = [p(x).reshape(b, t, self.heads, size).permute(0, 2, 1, 3) for p in (q, k, v)]
            scores = heads[0] @ heads[1].transpose(-2, -1) / math.sqrt(size)
            scores = scores.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf"))
            mixed = torch.softmax(scores, dim=-1) @ heads[2]
            x = x + o(mixed.transpose(1, 2).flatten(2))
            x = x + down(torch.relu(up(x)))
        return self.head(x)


def library_model(kind: str, seed: int = 0, **changes: object) -> nn.Module:
    """A small model of the `transformers` library with random weights: "rope" (grouped heads) or "learned" positions."""
    import transformers

    torch.manual_seed(seed)
    if kind == "rope":
        options = {"vocab_size": 101, "hidden_size": 72, "intermediate_size": 136, "num_hidden_layers": 3,
                   "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 128,
                   "bos_token_id": 1, "eos_token_id": 2, "head_dim": 20}  # fmt: skip
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**options, **changes})).eval()
    options = {"vocab_size": 101, "n_embd": 60, "n_layer": 3, "n_head": 3, "n_positions": 96,
               "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**options, **changes})).eval()
