"""Random causal modules of odd sizes, as a person might write them; each is data that hypothesis can shrink."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

VOCAB = 101
CONTEXT = 64


@dataclass(frozen=True)
class Plan:
    """What a module is made of."""

    width: int
    heads: int
    head_size: int
    layers: int
    norm: str
    activation: str
    gated: bool
    attention: str
    positions: str
    residual: str
    bias: bool
    tied: bool
    shared: bool
    extra: str
    seed: int


def plans_of(widths: list[int], heads: list[int], head_sizes: list[int]) -> st.SearchStrategy[Plan]:
    """Plans of some shapes, with all else."""
    return st.builds(
        Plan,
        width=st.sampled_from(widths),
        heads=st.sampled_from(heads),
        head_size=st.sampled_from(head_sizes),
        layers=st.integers(1, 3),
        norm=st.sampled_from(["layer", "rms", "rms-divided", "library-rms", "written-layer", "mixed", "none"]),
        activation=st.sampled_from(["relu", "silu", "gelu", "gelu-tanh", "tanh", "sigmoid", "square", "softplus", "erf"]),
        gated=st.booleans(),
        attention=st.sampled_from(["fused", "tril", "triu", "arange", "where", "grouped", "softcap", "window"]),
        positions=st.sampled_from(["learned", "table", "rope", "none", "pairs"]),
        residual=st.sampled_from(["pre", "post", "parallel", "scaled", "concat"]),
        bias=st.booleans(),
        tied=st.booleans(),
        shared=st.booleans(),
        extra=st.sampled_from(["", "channel-softmax", "chunk-gate", "per-token-mean", "head-norm", "clamp", "outer", "stack"]),
        seed=st.integers(0, 2**20),
    )


plans = plans_of([72, 40, 24, 33], [3, 2, 1, 4], [20, 8, 10, 6])
few_shapes = plans_of([40, 33], [3], [10])
"""Those whose kernels are few enough to be compiled in every run."""


class Norm(nn.Module):
    """A norm in one of its spellings."""

    def __init__(self, kind: str, size: int) -> None:
        super().__init__()
        self.kind = kind
        self.weight, self.bias = nn.Parameter(1 + 0.1 * torch.randn(size)), nn.Parameter(0.1 * torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "layer":
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, 1e-5)
        if self.kind == "rms":
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        if self.kind == "rms-divided":
            return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + 1e-5) * (1 + self.weight)
        if self.kind == "library-rms":
            return F.rms_norm(x, x.shape[-1:], self.weight, 1e-6)
        if self.kind == "written-layer":
            centred = x - x.mean(-1, keepdim=True)
            return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight + self.bias
        return x


ACTIVATIONS = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "square": lambda x: F.relu(x).square(),
    "softplus": F.softplus,
    "erf": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
}


class Attention(nn.Module):
    """Causal attention in one of its spellings."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.groups = 1 if plan.attention == "grouped" else plan.heads
        inner, kv = plan.heads * plan.head_size, self.groups * plan.head_size
        self.q, self.k, self.v = (nn.Linear(plan.width, n, bias=plan.bias) for n in (inner, kv, kv))
        self.o = nn.Linear(inner, plan.width, bias=plan.bias)
        self.norm = Norm("rms", plan.head_size)
        self.register_buffer("tril", torch.tril(torch.ones(CONTEXT, CONTEXT)).bool())
        turns = 1.0 / (100.0 ** (torch.arange(0, plan.head_size, 2).float() / plan.head_size))
        self.register_buffer("turns", turns, persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        t, size = x.shape[2], x.shape[3]
        angle = torch.arange(t)[:, None].float() * self.turns[None, :]
        if self.plan.positions == "rope":
            both = torch.cat((angle, angle), -1)
            half = torch.cat((-x[..., size // 2 :], x[..., : size // 2]), -1)
            return x * both.cos() + half * both.sin()
        cos, sin = angle.cos(), angle.sin()
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        plan, (b, t, _) = self.plan, x.shape
        q = self.q(x).view(b, t, plan.heads, plan.head_size).transpose(1, 2)
        k, v = (p(x).view(b, t, self.groups, plan.head_size).transpose(1, 2) for p in (self.k, self.v))
        if plan.extra == "head-norm":
            q, k = self.norm(q), self.norm(k)
        if plan.positions in ("rope", "pairs"):
            q, k = self.rotate(q), self.rotate(k)
        if self.groups != plan.heads:
            k, v = (y.repeat_interleave(plan.heads // self.groups, dim=1) for y in (k, v))
        if plan.attention in ("fused", "grouped"):
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mixed = torch.softmax(self.masked(q @ k.transpose(-2, -1) * plan.head_size**-0.5, t), -1) @ v
        return self.o(mixed.transpose(1, 2).reshape(b, t, -1))

    def masked(self, scores: Tensor, t: int) -> Tensor:
        kind = self.plan.attention
        if kind == "tril":
            return scores.masked_fill(~self.tril[:t, :t], float("-inf"))
        if kind == "triu":
            return scores + torch.full((t, t), float("-inf")).triu(1)
        place = torch.arange(t)
        if kind == "arange":
            return scores.masked_fill(place[None, :] > place[:, None], torch.finfo(torch.float32).min)
        if kind == "window":
            distance = place[:, None] - place[None, :]
            return torch.where((distance >= 0) & (distance < 9), scores, -1e9)
        if kind == "softcap":
            scores = 3.0 * torch.tanh(scores / 3.0)
        return torch.where(torch.ones(t, t).tril() == 1, scores, torch.full_like(scores, -1e30))


class Layer(nn.Module):
    """Attention and feed-forward around a residual of some shape."""

    def __init__(self, plan: Plan, index: int) -> None:
        super().__init__()
        self.plan = plan
        kinds = [plan.norm] * 2 if plan.norm != "mixed" else [("rms", "layer")[index % 2], "written-layer"]
        self.first, self.second = (Norm(kind, plan.width) for kind in kinds)
        self.attention = Attention(plan)
        hidden = 2 * plan.width + 3
        self.up = nn.Linear(plan.width, hidden * (2 if plan.extra == "chunk-gate" else 1), bias=plan.bias)
        self.gate = nn.Linear(plan.width, hidden, bias=plan.bias)
        self.down = nn.Linear(hidden, plan.width, bias=plan.bias)
        self.join = nn.Linear(2 * plan.width, plan.width, bias=False)

    def feed_forward(self, x: Tensor) -> Tensor:
        act = ACTIVATIONS[self.plan.activation]
        if self.plan.extra == "chunk-gate":
            a, b = self.up(x).chunk(2, dim=-1)
            hidden = act(a) * b
        elif self.plan.gated:
            hidden = act(self.gate(x)) * self.up(x)
        else:
            hidden = act(self.up(x))
        if self.plan.extra == "channel-softmax":
            hidden = torch.softmax(hidden, -1)
        if self.plan.extra == "per-token-mean":
            hidden = hidden - hidden.mean(-1, keepdim=True) / (1 + hidden.abs().amax(-1, keepdim=True))
        if self.plan.extra == "clamp":
            hidden = hidden.clamp(-1.5, 2.0)
        return self.down(hidden)

    def forward(self, x: Tensor) -> Tensor:
        kind = self.plan.residual
        if kind == "post":
            x = self.first(x + self.attention(x))
            return self.second(x + self.feed_forward(x))
        if kind == "parallel":
            h = self.first(x)
            return x + self.attention(h) + self.feed_forward(h)
        if kind == "scaled":
            x = x * 0.7 + self.attention(self.first(x)) * 1.3
            return x * 0.7 + self.feed_forward(self.second(x)) * 1.3
        x = x + self.attention(self.first(x))
        if kind == "concat":
            return self.join(torch.cat((x, self.feed_forward(self.second(x))), -1))
        return x + self.feed_forward(self.second(x))


class RandomModel(nn.Module):
    """The module of a plan, its weights drawn from its seed."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        torch.manual_seed(plan.seed)
        self.plan = plan
        self.embed = nn.Embedding(VOCAB, plan.width)
        self.place = nn.Embedding(CONTEXT, plan.width)
        self.register_buffer("table", torch.randn(1, CONTEXT, plan.width) * 0.3)
        layers = [Layer(plan, i) for i in range(plan.layers)]
        self.layers = nn.ModuleList([layers[0]] * plan.layers if plan.shared else layers)
        self.norm = Norm("layer" if plan.norm == "none" else plan.norm, plan.width)
        self.head = nn.Linear(plan.width, VOCAB, bias=plan.bias and not plan.tied)
        if plan.tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        t = ids.shape[1]
        x = self.embed(ids)
        if self.plan.positions == "learned":
            x = x + self.place(torch.arange(t, device=ids.device))
        elif self.plan.positions == "table":
            x = x + self.table[:, :t]
        if self.plan.extra == "outer":
            x = x + (x[..., :4].unsqueeze(-1) * x[..., 4:8].unsqueeze(-2)).sum((-1, -2), keepdim=False).unsqueeze(-1)
        if self.plan.extra == "stack":
            x = torch.stack((x, -0.3 * x, x * x), dim=2).sum(2)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def mutant(mutation: str, x: Tensor, weight: Tensor) -> Tensor:
    """One thing that mixes positions, done to hidden states `[1, S, D]`."""
    if mutation == "shift":
        return torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), 1)
    if mutation == "cumulative-sum":
        return x.cumsum(1) / 10
    if mutation == "mean-over-tokens":
        return x - x.mean(1, keepdim=True)
    if mutation == "convolution":
        return F.conv1d(x.transpose(1, 2), weight, padding=1, groups=x.shape[-1]).transpose(1, 2)
    scores = x @ x.transpose(1, 2) / math.sqrt(x.shape[-1])  # attention without a mask
    return torch.softmax(scores, -1) @ x


MUTATIONS = ("shift", "cumulative-sum", "mean-over-tokens", "convolution", "attention-without-mask")


class MutantModel(RandomModel):
    """A random model with one mutation before one of its layers."""

    def __init__(self, plan: Plan, mutation: str, place: int) -> None:
        super().__init__(plan)
        self.mutation, self.where = mutation, place % plan.layers
        self.weight = nn.Parameter(torch.randn(plan.width, 1, 3))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for i, layer in enumerate(self.layers):
            if i == self.where:
                x = mutant(self.mutation, x, self.weight)
            x = layer(x)
        return self.head(self.norm(x))
