"""One thing written in many ways: masks, biases, shared heads, activations; the program says what the module says."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmc.capture.capture import capture
from llmc.ir.score import window
from tests.llmc.capture.test_soundness import HEADS, IDS, VOCAB, WIDTH, Model

MOST = 32
SLOPES = torch.tensor([0.5, 0.25, 0.125]).view(HEADS, 1, 1)
DISTANCE = torch.arange(MOST)[None, :] - torch.arange(MOST)[:, None]


def agrees(module, lengths=(1, 2, 9, 13)):
    """The program of a module that agrees with it in fp64 at these lengths."""
    captured = capture(module, IDS)
    exact = copy.deepcopy(module).double()
    run = captured.program.as_module()
    for length in lengths:
        ids = torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(length))
        with torch.no_grad():
            expected, found = exact(ids[None])[0], run(ids)["logits"]
        assert float((found - expected).norm() / expected.norm()) < 2e-6, length
    return captured


def buffers(model, **tensors):
    for name, tensor in tensors.items():
        model.register_buffer(name, tensor)
    return model


MASKS = {
    "one minus mask": lambda s, w, q, k: w + (1.0 - (k <= q).float()) * -1e9,
    "ten thousand": lambda s, w, q, k: w + (1.0 - torch.ones_like(w).tril()) * -10000.0,
    "times and minus": lambda s, w, q, k: w * (k <= q) - 1e10 * (1 - (k <= q).float()),
    "scaled afterwards": lambda s, w, q, k: w.masked_fill(k > q, -1e9) / 2,
    "product of masks": lambda s, w, q, k: w.masked_fill(~((k <= q) * (q - k < 5)), -math.inf),
    "sum of masks": lambda s, w, q, k: w.masked_fill((k > q) + (q - k >= 5), -math.inf),
    "two penalties": lambda s, w, q, k: w + (k > q).float() * -1e9 + (q - k >= 5).float() * -1e9,
    "capped, then masked": lambda s, w, q, k: (5 * torch.tanh(w / 5)).masked_fill(k > q, -1e9) + 0.0,
    "window of a buffer": lambda s, w, q, k: w.masked_fill(~s.band[: q.shape[0], : q.shape[0]], -math.inf),
    "sinks and window": lambda s, w, q, k: w.masked_fill((k > q) | ((q - k >= 4) & (k >= 2)), -math.inf),
    "mask in bfloat16": lambda s, w, q, k: w + (1 - torch.ones_like(w).bfloat16().tril()) * -1e9,
    "mask in float16": lambda s, w, q, k: w + torch.zeros(w.shape[-2:]).half().masked_fill(k > q, -60000.0),
    "mask times a number": lambda s, w, q, k: w + (k > q) * -1e9,
    "turned mask": lambda s, w, q, k: w.masked_fill(torch.ones(q.shape[0], q.shape[0]).triu(1).T.T.bool(), -math.inf),
    "turned once": lambda s, w, q, k: w.masked_fill(torch.ones(q.shape[0], q.shape[0]).tril(-1).T.bool(), -math.inf),
    "bounded afterwards": lambda s, w, q, k: torch.max(w + (k > q) * -1e30, torch.tensor(-1e30)).clamp(min=-1e31),
    "finite bias": lambda s, w, q, k: (w - 0.1 * (q - k).abs()).masked_fill(k > q, -math.inf),
    "slopes": lambda s, w, q, k: (w + s.slopes * (k - q)).masked_fill(k > q, -math.inf),
    "slopes of a buffer": lambda s, w, q, k: (w + s.biases[:, : q.shape[0], : q.shape[0]]).masked_fill(k > q, -math.inf),
    "slopes by key positions": lambda s, w, q, k: (w + s.slopes * k).masked_fill(k > q, -math.inf),
    "slopes by key positions of a buffer": lambda s, w, q, k: (w + s.lines[..., : q.shape[0]]).masked_fill(k > q, -math.inf),
    "buffer cut to keys first": lambda s, w, q, k: w.masked_fill(~s.band[:, : q.shape[0]][: q.shape[0]], -math.inf),
    "slopes and mask of a buffer": lambda s, w, q, k: w + s.masked[:, : q.shape[0], : q.shape[0]],
}


def masked(name):
    band = torch.ones(MOST, MOST).tril().triu(-4).bool()
    biases = SLOPES * DISTANCE
    lines = SLOPES * torch.arange(MOST)
    masked = biases.masked_fill(DISTANCE > 0, -math.inf)
    return buffers(Model(scores=MASKS[name]), band=band, slopes=SLOPES, lines=lines, biases=biases, masked=masked)


@pytest.mark.parametrize("name", MASKS)
def test_masks_and_biases_are_understood_however_they_are_written(name):
    agrees(masked(name))


@pytest.mark.parametrize(("name", "size"), [("window of a buffer", 5), ("product of masks", 5), ("two penalties", 5),
                                            ("slopes", None)])  # fmt: skip
def test_windows_are_proved(name, size):
    (attention,) = capture(masked(name), IDS).program.find("attention")
    assert window(attention.kwargs["admits"]) == size


def test_slopes_are_one_number_a_head():
    (attention,) = capture(masked("slopes of a buffer"), IDS).program.find("attention")
    assert "per_head" in str(attention.kwargs["score"])


class Heads(nn.Module):
    """Queries of several heads over keys and values of one."""

    def __init__(self, share, size=8):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(4 * size, VOCAB)
        self.q, self.k, self.v = nn.Linear(WIDTH, 4 * size), nn.Linear(WIDTH, size), nn.Linear(WIDTH, size)
        self.share, self.size = share, size

    def forward(self, ids):
        x = self.embed(ids)
        q = self.q(x).view(1, -1, 4, self.size).transpose(1, 2)
        k, v = (p(x).view(1, -1, 1, self.size).transpose(1, 2) for p in (self.k, self.v))
        return self.head(self.share(q, k, v).transpose(1, 2).flatten(2))


SHARED = {
    "gqa": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
    "expand": lambda q, k, v: F.scaled_dot_product_attention(q, k.expand_as(q), v.expand_as(q), is_causal=True),
    "interleave": lambda q, k, v: F.scaled_dot_product_attention(
        q, k.repeat_interleave(4, 1), v.repeat_interleave(4, 1), is_causal=True
    ),
    "repeat": lambda q, k, v: F.scaled_dot_product_attention(q, k.repeat(1, 4, 1, 1), v.repeat(1, 4, 1, 1), is_causal=True),
    "broadcast": lambda q, k, v: torch.softmax(
        (q @ k.mT).masked_fill(torch.ones(q.shape[2], q.shape[2]).triu(1) > 0, -math.inf), -1
    ) @ v,
}


@pytest.mark.parametrize("size", [8, 1])
@pytest.mark.parametrize("name", SHARED)
def test_one_head_of_keys_is_cached_once_however_it_is_shared(name, size):
    (attention,) = agrees(Heads(SHARED[name], size)).program.find("attention")
    assert size == 1 or attention.args[1].meta["type"].fixed == (1, size)


ACTIVATIONS = ("softplus", "mish", "leaky_relu", "elu", "selu", "celu", "relu6", "hardtanh", "hardswish", "logsigmoid",
               "log_softmax", "normalize", "glu", "softsign")  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_torch_are_captured(name):
    options = {"dim": -1} if name in ("log_softmax", "normalize") else {}
    agrees(Model(hidden=lambda s, x, t: x[..., :1] + (getattr(F, name)(2 * x, **options)).repeat(1, 1, 2)[..., :WIDTH]))


VALUES = {
    "expanded positions": lambda s, x, t: x + torch.arange(t).float().view(1, -1, 1).expand(1, t, 6).sum(-1, keepdim=True) / 99,
    "table of numbers": lambda s, x, t: x * s.gains[:t, None],
    "chosen features": lambda s, x, t: x + x[..., torch.tensor([False, True] * (WIDTH // 2))].sum(-1, keepdim=True),
    "selected features": lambda s, x, t: x + x.index_select(-1, torch.tensor([1, 3, 5])).sum(-1, keepdim=True),
    "rows from the end": lambda s, x, t: x + s.embed.weight[torch.where(torch.arange(t) < 2, torch.arange(t) - 2, 3)],
    "promoted choice": lambda s, x, t: x + (torch.where(s.yes, x[..., 0] > 0, 0.0) * 2)[..., None],
    "constant choice": lambda s, x, t: torch.lerp(x, 2 * x, 0.3),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_of_a_token_are_computed_in_many_ways(name):
    agrees(buffers(Model(hidden=VALUES[name]), gains=torch.rand(MOST) + 0.5, yes=torch.tensor(True)))


def test_logits_of_minus_infinity_agree_with_themselves():
    captured = capture(Model(output=lambda s, y: y.masked_fill(torch.arange(VOCAB) > 8, -math.inf)), IDS)
    assert captured.vocab_size == VOCAB


def test_ids_may_be_clamped_before_they_are_looked_up():
    class Clamped(Model):
        def forward(self, ids):
            return super().forward(ids.clamp(0, VOCAB - 1))

    assert agrees(Clamped()).vocab_size == VOCAB


def test_shifted_positions_leave_room_for_fewer_tokens():
    class Shifted(Model):
        def __init__(self):
            super().__init__(hidden=lambda s, x, t: x + s.place(torch.arange(t) + 2))
            self.place = nn.Embedding(20, WIDTH)

    assert agrees(Shifted()).max_context == 18


def test_buffer_put_in_place_of_another_is_put_back():
    def output(self, y):
        self.last = y[:, -1]
        return y

    module = Model(output=output)
    before = module.last
    agrees(module)
    capture(module, IDS)
    assert module._buffers["last"].shape == before.shape
