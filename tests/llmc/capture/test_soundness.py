"""What must be refused, because a step could not give what the module gives; each with the reason told."""

import math

import pytest
import torch
from torch import nn

from llmc.capture.capture import capture
from llmc.errors import CaptureError

IDS = (torch.tensor([[3, 1, 4, 1, 5, 9, 2]]),)
WIDTH, HEADS, VOCAB = 24, 3, 11


class Model(nn.Module):
    """A causal model in which one thing is the test's: of hidden states, of scores, or of the logits."""

    def __init__(self, hidden=None, scores=None, output=None, weigh=None):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.hidden, self.scores, self.output, self.weigh = hidden, scores, output, weigh
        self.register_buffer("ones", torch.ones(32, 32, dtype=torch.bool))
        self.register_buffer("last", torch.zeros(1, VOCAB))
        self.row = nn.Parameter(torch.randn(1, WIDTH))

    def forward(self, ids):
        x = self.embed(ids)
        t = x.shape[1]
        q, k, v = (y.view(1, t, HEADS, -1).transpose(1, 2) for y in self.qkv(x).split(WIDTH, -1))
        scores = q @ k.transpose(-2, -1) / math.sqrt(WIDTH // HEADS)
        place = torch.arange(t)
        if self.scores:
            scores = self.scores(self, scores, place[:, None], place[None, :])
        else:
            scores = scores.masked_fill(place[None, :] > place[:, None], -math.inf)
        weights = torch.softmax(scores, -1)
        mixed = self.weigh(self, weights, v) if self.weigh else weights @ v
        x = x + mixed.transpose(1, 2).reshape(1, t, WIDTH)
        x = self.hidden(self, x, t) if self.hidden else x
        y = self.head(x)
        return self.output(self, y) if self.output else y


def buffered(self, y):
    self.last.copy_(y[:, -1])
    return y


CAUSAL = "masked_fill(k > q, -math.inf)"
LENGTHS = {
    "short": (lambda s, x, t: x * 2 if t > 4 else x, r"S > 4|sequence of 1"),
    "one": (lambda s, x, t: x if t == 1 else x * 2, "sequence of 1"),
    "odd": (lambda s, x, t: x * 2 if t % 2 else x, r"S % 2"),
    "nine": (lambda s, x, t: x if t != 9 else x * 2, "sequence of 9"),
    "a number": (lambda s, x, t: x * math.log(t), "of 7 tokens only"),
    "divisor": (lambda s, x, t: x.cumsum(1) / t, "mixes positions"),
    "scale": (lambda s, x, t: x / t, "length of the sequence"),
    "filled": (lambda s, x, t: x + torch.full((t, 1), t), "length of the sequence"),
    "compared": (lambda s, x, t: x * (x > t), "length of the sequence"),
}
HIDDEN = {
    "outer": (lambda s, x, t: (x[..., :1] @ x[..., 1:2].transpose(1, 2))[:, :, -1:] * x, "mixes positions"),
    "pairs": (lambda s, x, t: (x[:, :, None, :] * x[:, None, :, :])[:, :, -1], "mixes positions"),
    "repeated positions": (lambda s, x, t: x + torch.arange(t)[None].expand(t, t).sum(0)[None, :, None], "mixes positions"),
    "one row": (lambda s, x, t: x + s.row[:t], "slice"),
    "wrapping": (lambda s, x, t: x + (x * 100).to(torch.uint8), "uint8"),
    "variance": (lambda s, x, t: x / x.var(), "mixes positions"),
    "one element": (lambda s, x, t: x + x[..., :1].var(-1, keepdim=True), "not a number"),
    "positions in float16": (lambda s, x, t: x + torch.arange(t).half().float().sin()[None, :, None], "float16"),
    "positions in bfloat16": (lambda s, x, t: x + torch.arange(t).bfloat16().float().sin()[None, :, None], "bfloat16"),
    "reversed": (lambda s, x, t: x + x.flip(1), "mixes positions"),
    "weight on zeros": (lambda s, x, t: x + (torch.zeros(1, t, WIDTH) + s.row), "a weight meets a tensor of one number"),
}
SCORES = {
    "all admitted": (
        lambda s, w, q, k: w.masked_fill(~torch.where(k > q, s.ones[:1, :1], s.ones[:1, :1]), -1e9),
        "later positions",
    ),
    "table of ones": (lambda s, w, q, k: w.masked_fill(~s.ones[: q.shape[0], : q.shape[0]], -1e9), "later positions"),
    "none admitted": (lambda s, w, q, k: w - 20000.0, "no key is ever admitted"),
    "row without keys": (lambda s, w, q, k: w.masked_fill(k >= q, -1e9), "admit|itself|sequence of 1"),
    "by score": (lambda s, w, q, k: w.masked_fill((w < 0.05) & (k != q), -1e9).masked_fill(k > q, -1e9), "scores themselves"),
    "by length": (lambda s, w, q, k: (w / q.shape[0]).masked_fill(k > q, -math.inf), "length of the sequence"),
    "small penalty": (lambda s, w, q, k: torch.where(k > q, w - 1000.0, w), "later positions"),
}  # fmt: skip
WEIGHTS = {
    "heads in another order": (lambda s, p, v: p[:, [2, 0, 1]] @ v, "heads|step"),
    "changed after the softmax": (lambda s, p, v: (p * 2) @ v, "after the softmax"),
    "transposed": (lambda s, p, v: p.transpose(-1, -2) @ v, "something else than keys"),
}
OUTPUTS = {
    "turned": (lambda s, y: y.transpose(1, 2), r"must be \[1, S, vocabulary\]"),
    "last twice": (lambda s, y: torch.cat([y[:, -1:], y[:, -1:]], 1), r"must be \[1, S, vocabulary\]"),
    "buffer": (buffered, "changes 'last'"),
    "none": (lambda s, y: None, "returns NoneType"),
    "several": (lambda s, y: (y, y * 2), "2 tensors"),
}


def refused(module, reason):
    with pytest.raises(CaptureError, match=reason) as error:
        capture(module, IDS)
    assert "internal" not in str(error.value)


@pytest.mark.parametrize("name", LENGTHS)
def test_code_that_depends_on_the_length_is_refused(name):
    refused(Model(hidden=LENGTHS[name][0]), LENGTHS[name][1])


@pytest.mark.parametrize("name", HIDDEN)
def test_values_that_have_no_meaning_for_one_token_are_refused(name):
    refused(Model(hidden=HIDDEN[name][0]), HIDDEN[name][1])


@pytest.mark.parametrize("name", SCORES)
def test_masks_that_admit_the_wrong_keys_are_refused(name):
    refused(Model(scores=SCORES[name][0]), SCORES[name][1])


@pytest.mark.parametrize("name", WEIGHTS)
def test_attention_weights_used_in_other_ways_are_refused(name):
    refused(Model(weigh=WEIGHTS[name][0]), WEIGHTS[name][1])


@pytest.mark.parametrize("name", OUTPUTS)
def test_results_that_are_no_logits_are_refused(name):
    refused(Model(output=OUTPUTS[name][0]), OUTPUTS[name][1])


HEADS_THAT_HIDE = {
    "padded vocabulary": (lambda s, y: y.masked_fill(torch.arange(VOCAB) > 8, torch.finfo(torch.float32).min), None),
    "large bias": (None, lambda s: nn.init.constant_(s.head.bias, 1e4)),
    "zero head": (None, lambda s: (nn.init.zeros_(s.head.weight), nn.init.zeros_(s.head.bias))),
}


@pytest.mark.parametrize("name", HEADS_THAT_HIDE)
def test_branch_on_one_token_is_found_however_the_logits_look(name):
    output, change = HEADS_THAT_HIDE[name]
    module = Model(hidden=lambda s, x, t: x if t == 1 else x * 2, output=output)
    if change:
        change(module)
    before = [p.clone() for p in module.parameters()]
    refused(module, "sequence of 1")
    assert all(torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))


def test_ids_that_would_be_negative_are_refused():
    class Lower(Model):
        def forward(self, ids):
            return self.head(self.embed(ids - 1))

    with pytest.raises(CaptureError, match="negative"):
        capture(Lower(), (torch.tensor([[3, 1, 4, 1, 5]]),))


def test_guard_on_a_long_sequence_ends_the_context_before_it():
    class Long(Model):
        def __init__(self):
            super().__init__(hidden=lambda s, x, t: s.place(torch.arange(t)) + (x * 2 if t > 10_000 else x))
            self.place = nn.Embedding(20_000, WIDTH)

    assert capture(Long(), IDS).max_context == 10_000


def test_attention_without_a_mask_is_told_so():
    refused(Model(scores=lambda s, w, q, k: w), "it has no mask")


def test_line_of_a_forward_with_another_name_is_the_user_s_or_none():
    class Renamed(Model):
        def compute(self, ids):
            return self.head(self.embed(ids).cumsum(1))

        forward = compute

    with pytest.raises(CaptureError, match="mixes positions") as error:
        capture(Renamed(), IDS)
    assert "export.py" not in str(error.value)


def test_code_that_looks_at_values_is_refused_in_a_line(capfd):
    refused(Model(hidden=lambda s, x, t: x if x.sum().item() > 0 else x * 2), "cannot trace Model")
    assert capfd.readouterr().err == ""


def test_module_that_fails_for_one_token_is_refused():
    refused(Model(hidden=lambda s, x, t: x if t > 1 else x.nonsense), "fails for a sequence of 1")


def test_refused_module_is_left_as_it_was_found():
    module = Model(output=buffered).train()
    before = {name: (value, value.clone()) for name, value in module.named_buffers()}
    with pytest.raises(CaptureError):
        capture(module, IDS)
    assert module.training and all(m.training for m in module.modules())
    for name, value in module.named_buffers():
        assert value is before[name][0] and torch.equal(value, before[name][1])


def test_error_of_a_rule_names_the_node_and_the_line():
    with pytest.raises(CaptureError, match=r"node '\w+'.*\n  at test_soundness\.py:\d+ in Model\.forward"):
        capture(Model(hidden=HIDDEN["variance"][0]), IDS)
