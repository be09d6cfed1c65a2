"""Capture: the program says what the module says, for every position, and what mixes positions is refused by name."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmc.capture.capture import capture
from llmc.conformance.modules import LearnedPositions, SelfAttention, TrilAttention, library_model
from llmc.errors import CaptureError
from llmc.ir.score import CAUSAL

IDS = (torch.tensor([[3, 1, 4, 1, 5, 9]]),)


def original_logits(module: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """fp64 logits of every position, `[S, V]`."""
    module = copy.deepcopy(module).double().eval()
    with torch.no_grad():
        if isinstance(module, LearnedPositions):
            return module.head(module.hidden(ids[None]))[0]
        out = module(ids[None])
        return (out if isinstance(out, torch.Tensor) else out.logits)[0]


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b).norm() / b.norm())


def make(name: str) -> nn.Module:
    torch.manual_seed(1)
    makers = {"learned": LearnedPositions, "tril": TrilAttention}
    return makers[name]() if name in makers else library_model(name.removeprefix("library-"))


@pytest.mark.parametrize("name", ["learned", "tril", "library-rope", "library-learned"])
def test_program_agrees_with_the_module_at_every_position(name):
    module = make(name)
    captured = capture(module, None if name.startswith("library") else IDS)
    ids = torch.randint(0, captured.vocab_size, (37,))
    with torch.no_grad():
        logits = captured.program.as_module()(ids)["logits"]
    assert relative_error(logits, original_logits(module, ids)) < 1e-6
    attentions = captured.program.find("attention")
    assert len(attentions) == {"learned": 3, "tril": 2}.get(name, 3)
    assert all(node.kwargs["admits"] == CAUSAL for node in attentions)


@pytest.mark.parametrize(("name", "context"), [("learned", 64), ("tril", 48), ("library-rope", 128), ("library-learned", 96)])
def test_max_context_is_what_the_positions_allow(name, context):
    module = make(name)
    assert capture(module, None if name.startswith("library") else IDS).max_context == context


def test_max_context_beyond_the_positions_is_refused():
    with pytest.raises(CaptureError, match="beyond the 64"):
        capture(make("learned"), IDS, max_context=65)


def test_context_is_no_longer_than_guards_are_tried_on():
    module = library_model("rope", max_position_embeddings=2**23)
    assert capture(module).max_context == 2**20
    with pytest.raises(CaptureError, match="beyond the 1048576"):
        capture(module, max_context=2**21)


def test_rows_are_selected_after_the_last_attention():
    program = capture(make("library-rope")).program
    after = [node for node in program.nodes if node.meta["type"].rows == "R"]
    linears = [node for node in after if node.target.name == "linear"]
    assert len(linears) == 5 and len(program.find("linear")) == 3 * 7 + 1  # o, gate, up, down and head of the last layer


def test_same_module_gives_the_same_program_every_time():
    module = library_model("rope")
    texts = {str(capture(module).program) for _ in range(4)}
    assert len(texts) == 1


def test_module_is_left_as_it_was_found():
    module = library_model("rope").train()
    before, mode = module.config._attn_implementation, module.training
    capture(module)
    assert module.config._attn_implementation == before and module.training is mode


def test_half_precision_module_is_captured_in_float32_and_not_changed():
    module = library_model("rope").bfloat16()
    program = capture(module).program
    assert next(module.parameters()).dtype == torch.bfloat16
    assert program.find("linear")[0].meta["type"].dtype == "float32"


def test_key_heads_repeated_for_groups_are_cached_once():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.q, self.kv, self.o = nn.Embedding(50, 32), nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 50)

        def forward(self, ids):
            x = self.e(ids)
            b, t, _ = x.shape
            q = self.q(x).view(b, t, 4, 8).transpose(1, 2)
            k, v = (y.view(b, t, 2, 8).transpose(1, 2).repeat_interleave(2, dim=1) for y in self.kv(x).chunk(2, -1))
            return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, 32))

    module = Grouped()
    program = capture(module, IDS).program
    (attention,) = program.find("attention")
    assert attention.args[1].meta["type"].fixed == (2, 8)
    ids = torch.arange(9)
    with torch.no_grad():
        assert relative_error(program.as_module()(ids)["logits"], original_logits(module, ids)) < 1e-6


class Mutant(nn.Module):
    """A causal model with one thing done to its hidden states, or with another attention."""

    def __init__(self, mutation, attention=None):
        super().__init__()
        self.embed, self.attention = nn.Embedding(50, 24), attention or SelfAttention(24, 3)
        self.mutation, self.head = mutation, nn.Linear(24, 50)
        self.conv = nn.Conv1d(24, 24, 3, padding=1)

    def forward(self, ids):
        return self.head(self.mutation(self, self.attention(self.embed(ids))))


class Bare(nn.Module):
    """Attention whose mask is chosen by the test."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask
        self.register_buffer("table", torch.ones(32, 32).tril(1))

    def forward(self, x):
        scores = x @ x.transpose(1, 2) / math.sqrt(x.shape[-1])
        return torch.softmax(self.mask(self, scores), -1) @ x


MUTATIONS = {
    "shift": lambda self, x: F.pad(x, (0, 0, 1, 0))[:, :-1],
    "shift-cat": lambda self, x: torch.cat((x[:, :1], x[:, :-1]), 1),
    "roll": lambda self, x: x.roll(1, 1),
    "cumulative-sum": lambda self, x: x.cumsum(1),
    "mean-over-tokens": lambda self, x: x - x.mean(1, keepdim=True),
    "convolution": lambda self, x: self.conv(x.transpose(1, 2)).transpose(1, 2),
    "softmax-over-tokens": lambda self, x: x.softmax(1),
    "scale-of-the-tensor": lambda self, x: x / x.abs().amax(),
    "reshape-across": lambda self, x: x.reshape(1, 24, -1).transpose(1, 2),
    "first-token": lambda self, x: x + x[:, :1],
    "product-over-tokens": lambda self, x: x + x @ (x.transpose(1, 2) @ x),
    "flip": lambda self, x: x.flip(1),
    "layer-norm-over-all": lambda self, x: (x - x.mean()) / x.std(),
    "last-to-all": lambda self, x: x + x[:, -1:],
    "scores-without-softmax": lambda self, x: (x @ x.transpose(1, 2)).tril() @ x,
}
MASKS = {
    "none": lambda self, s: s,
    "wrong-buffer": lambda self, s: s.masked_fill(self.table[: s.shape[1], : s.shape[1]] == 0, -math.inf),
    "anticausal": lambda self, s: s + torch.full_like(s, -math.inf).tril(-1),
    "one-ahead": lambda self, s: s.masked_fill(torch.ones_like(s).triu(2) == 1, -math.inf),
    "small-penalty": lambda self, s: s + torch.ones_like(s).triu(1) * -3.0,
}
RIGHT_MASKS = {
    "triu": lambda self, s: s + torch.full_like(s, -math.inf).triu(1),
    "arange": lambda self, s: s.masked_fill(
        torch.arange(s.shape[1])[None, :] > torch.arange(s.shape[1])[:, None], torch.finfo(s.dtype).min
    ),
    "where": lambda self, s: torch.where(torch.ones(s.shape[1], s.shape[1], dtype=torch.bool).tril(), s, -1e9),
    "window": lambda self, s: s.masked_fill(
        (torch.ones_like(s).triu(1) + torch.ones_like(s).tril(-4)) > 0, -math.inf
    ),
    "softcap": lambda self, s: (5 * torch.tanh(s / 5)).masked_fill(torch.ones_like(s).tril() == 0, -math.inf),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_module_that_mixes_positions_is_refused_by_name(name):
    with pytest.raises(CaptureError, match=r"node '.*\n  at test_capture\.py:\d+ in \w+\.forward"):
        capture(Mutant(MUTATIONS[name]), IDS)


@pytest.mark.parametrize("name", MASKS)
def test_attention_that_is_not_causal_is_refused(name):
    with pytest.raises(CaptureError, match=r"node '"):
        capture(Mutant(lambda self, x: x, Bare(MASKS[name])), IDS)


@pytest.mark.parametrize("name", RIGHT_MASKS)
def test_masks_are_understood_however_they_are_written(name):
    torch.manual_seed(0)
    module = Mutant(lambda self, x: x, Bare(RIGHT_MASKS[name]))
    program = capture(module, IDS).program
    ids = torch.randint(0, 50, (13,))
    with torch.no_grad():
        assert relative_error(program.as_module()(ids)["logits"], original_logits(module, ids)) < 1e-6


CONSTANTS = {
    "ones": lambda self, x: x * torch.ones_like(x),
    "wide": lambda self, x: x[..., :1] + torch.zeros_like(x),
    "condition": lambda self, x: torch.where(x > 0, torch.ones_like(x), torch.full_like(x, -1.0)),
    "sized": lambda self, x: x + torch.full((1, x.shape[1], 24), 0.5),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_tensors_of_one_number_fit_values_of_any_shape(name):
    class TokenWise(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(50, 24), nn.Linear(24, 50)

        def forward(self, ids):
            return self.head(CONSTANTS[name](self, self.embed(ids)))

    module = TokenWise()
    program = capture(module, IDS).program
    for length in (1, 9):
        ids = torch.randint(0, 50, (length,))
        with torch.no_grad():
            assert relative_error(program.as_module()(ids)["logits"], module(ids[None])[0].double()) < 1e-6


def test_fixed_length_is_refused():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 50)

        def forward(self, ids):
            return self.head(self.embed(ids) + torch.ones(6, 8))

    with pytest.raises(CaptureError):
        capture(Fixed(), IDS)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [(None, "example_inputs"), ((1,), "tuple of one tensor"), ((torch.ones(1, 6),), "int64"),
     ((torch.ones(6, dtype=torch.int64),), "int64")],
)  # fmt: skip
def test_unusable_example_inputs_are_refused(inputs, message):
    with pytest.raises(CaptureError, match=message):
        capture(make("tril"), inputs)
