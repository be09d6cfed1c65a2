"""Mixtures of experts: through the library's interface, and the choice of the largest."""

import pytest
import torch
from torch import nn
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import llmc
from llmc.backends.cpu.backend import CpuBackend
from llmc.capture.capture import capture
from llmc.errors import CaptureError
from llmc.ir.cost import node_cost
from llmc.runtime.model import CompiledModel

SHAPE = dict(
    vocab_size=61,
    hidden_size=36,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    num_key_value_heads=1,
    max_position_embeddings=64,
)
OWN = dict(num_experts=6, num_experts_per_tok=3, moe_intermediate_size=20)
ROPE = dict(rope_type="default", rope_theta=10000.0)
MODELS = {
    "softmax-then-top": lambda: MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=5, num_experts_per_tok=2)),
    "one-of-each": lambda: MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=1)),
    "shared-expert": lambda: Qwen2MoeForCausalLM(Qwen2MoeConfig(**SHAPE, **OWN, shared_expert_intermediate_size=24)),
    "dense-layer-first": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, **OWN, head_dim=12, mlp_only_layers=[0])),
    "transposed-with-biases": lambda: GptOssForCausalLM(
        GptOssConfig(
            **SHAPE,
            num_local_experts=6,
            num_experts_per_tok=3,
            head_dim=12,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters=ROPE,
        )
    ),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(4)
    model = MODELS[name]().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_experts_agree_with_the_original(name):
    model = made(name)
    before = model.get_experts_implementation()
    eager = llmc.compile(model, backend="eager", max_context=32)
    compiled = eager, CompiledModel(eager.program, CpuBackend().lower(eager.program), eager.info)
    assert model.get_experts_implementation() == before
    ids = torch.randint(0, 61, (3, 20))
    model.set_experts_implementation("eager")
    with torch.no_grad():
        expected = model.double()(ids).logits
    for one in compiled:
        assert len(list(one.program.find("expert_linear"))) == (2 if name == "dense-layer-first" else 4)
        for rows, row in zip(one(ids[:, :13].tolist()), expected, strict=True):
            assert (torch.from_numpy(rows) - row[:13]).abs().max() <= 1e-5 * expected.abs().max()


def test_cost_counts_the_chosen_experts_alone():
    program = capture(made("softmax-then-top")).program
    node = next(iter(program.find("expert_linear")))
    assert node_cost(program, node).weight_bytes == round(program.weight(node.args[2]).bytes * 2 / 5)


class Chooses(nn.Module):
    """How large the largest are, along a dimension of `[1, S, 8]`."""

    def __init__(self, dim: int, largest: bool = True):
        super().__init__()
        self.embed, self.dim, self.largest = nn.Embedding(19, 8), dim, largest

    def forward(self, ids):
        return torch.topk(self.embed(ids), 2, dim=self.dim, largest=self.largest).values


def test_the_largest_of_a_token_are_captured():
    module = Chooses(-1)
    compiled = llmc.compile(module, example_inputs=(torch.arange(6)[None],), backend="eager")
    with torch.no_grad():
        expected = module(torch.tensor([[3, 1, 2]]))[0]
    assert torch.equal(torch.from_numpy(compiled([[3, 1, 2]])[0]), expected)


@pytest.mark.parametrize(
    ("module", "named"),
    [(Chooses(1), "it mixes positions: the largest of"), (Chooses(-1, largest=False), "other elements than the largest")],
)
def test_another_choice_is_refused_by_name(module, named):
    with pytest.raises(CaptureError, match=named):
        capture(module, (torch.arange(6)[None],))
