"""Small models of many families, random weights: what capture is held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmc.ir.program import Program, type_of

VOCAB = 101
ROPE = {"vocab_size": VOCAB, "hidden_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 128}
GATED = {**ROPE, "intermediate_size": 56}
"""Sizes that most configs call by the same names."""


def heads(query: int, key: int, size: int | None = None) -> dict[str, int]:
    """Query heads, key heads, and the features of a head where they are not the width over the heads."""
    return {"num_attention_heads": query, "num_key_value_heads": key, **({"head_dim": size} if size else {})}


LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 1.0,
            "original_max_position_embeddings": 40, "short_factor": [1.0, 1.1, 1.3, 1.4],
            "long_factor": [1.0, 1.5, 2.5, 4.0]}  # fmt: skip

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {**GATED, **heads(3, 1, 16), "attention_bias": True, "mlp_bias": True}),
    "Llama, tied": ("llama", {**GATED, **heads(9, 3, 8), "hidden_size": 72, "tie_word_embeddings": True}),
    "Llama, rope of type llama3": ("llama", {**GATED, **heads(4, 2), "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}}),
    "Llama, rope of type yarn": ("llama", {**GATED, **heads(4, 2), "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}}),
    "Llama, rope of type linear": ("llama", {**GATED, **heads(4, 2), "rope_parameters": {
        "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
    "Llama, rope of type dynamic": ("llama", {**GATED, **heads(4, 2), "rope_parameters": {
        "rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}}),
    "Mistral": ("mistral", {**GATED, **heads(15, 5, 8), "hidden_size": 60, "sliding_window": 10}),
    "Qwen2": ("qwen2", {**GATED, **heads(3, 3), "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    "Qwen3": ("qwen3", {**GATED, **heads(5, 5, 8), "attention_bias": True}),
    "Phi": ("phi", {**GATED, **heads(3, 3), "partial_rotary_factor": 0.5, "qk_layernorm": True}),
    "Phi-3": ("phi3", {**GATED, **heads(6, 2), "pad_token_id": 0, "sliding_window": 12}),
    "Phi-3, rope of type longrope": ("phi3", {**GATED, **heads(6, 2), "pad_token_id": 0, "rope_parameters": LONGROPE,
                               "original_max_position_embeddings": 40}),
    "Gemma": ("gemma", {**GATED, **heads(3, 1, 16)}),
    "Gemma-2": ("gemma2", {**GATED, **heads(4, 2, 16), "num_hidden_layers": 3, "sliding_window": 7, "query_pre_attn_scalar": 20,
                          "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0}),
    "Gemma-3": ("gemma3_text", {**GATED, **heads(3, 1, 16), "num_hidden_layers": 3, "sliding_window": 7,
                               "sliding_window_pattern": 2, "query_pre_attn_scalar": 20}),
    "GPT-2": ("gpt2", {"vocab_size": VOCAB, "n_embd": 45, "n_layer": 2, "n_head": 5, "n_positions": 128}),
    "GPT-2, untied, scaled by layer": ("gpt2", {
        "vocab_size": VOCAB, "n_embd": 48, "n_layer": 2, "n_head": 3, "n_positions": 128, "tie_word_embeddings": False,
        "scale_attn_by_inverse_layer_idx": True}),
    "GPT-NeoX": ("gpt_neox", {**GATED, "num_attention_heads": 3, "rotary_pct": 0.25}),
    "GPT-NeoX, in sequence, tied": ("gpt_neox", {**GATED, "num_attention_heads": 3, "use_parallel_residual": False,
                                          "attention_bias": False, "tie_word_embeddings": True}),
    "GPT-J": ("gptj", {"vocab_size": VOCAB, "n_embd": 48, "n_layer": 2, "n_head": 3, "n_positions": 128, "rotary_dim": 8}),
    "OPT": ("opt", {**ROPE, "ffn_dim": 56, "num_attention_heads": 3, "word_embed_proj_dim": 48}),
    "OPT, projected, norm after": ("opt", {**ROPE, "ffn_dim": 56, "num_attention_heads": 5, "hidden_size": 40,
                                          "word_embed_proj_dim": 24, "do_layer_norm_before": False}),
    "Falcon, new decoder": ("falcon", {**ROPE, "num_attention_heads": 6, "num_kv_heads": 2, "new_decoder_architecture": True,
                                      "bias": True, "alibi": False}),
    "Falcon, multi-query": ("falcon", {**ROPE, "num_attention_heads": 3, "multi_query": True, "alibi": False,
                                      "parallel_attn": True, "bias": False}),
    "Falcon, ALiBi": ("falcon", {**ROPE, "hidden_size": 72, "num_attention_heads": 9, "multi_query": False, "alibi": True,
                                "parallel_attn": False, "bias": True}),
    "BLOOM": ("bloom", {"vocab_size": VOCAB, "hidden_size": 48, "n_layer": 2, "n_head": 4}),
    "BLOOM, residual after the norm": ("bloom", {"vocab_size": VOCAB, "hidden_size": 40, "n_layer": 2, "n_head": 5,
                                "apply_residual_connection_post_layernorm": True}),
    "StableLM": ("stablelm", {**GATED, **heads(3, 1), "partial_rotary_factor": 0.5, "qk_layernorm": True,
                              "use_qkv_bias": True}),
    "StableLM, parallel": ("stablelm", {**GATED, **heads(4, 2), "use_parallel_residual": True, "partial_rotary_factor": 0.5}),
    "OLMo-2": ("olmo2", {**GATED, **heads(3, 1, 16), "pad_token_id": 0}),
    "Cohere": ("cohere", {**GATED, **heads(3, 1, 16), "pad_token_id": 0, "use_qk_norm": True, "logit_scale": 0.25}),
    "Cohere-2": ("cohere2", {**GATED, **heads(3, 1, 16), "pad_token_id": 0, "num_hidden_layers": 3, "sliding_window": 8,
                            "sliding_window_pattern": 2}),
    "Granite": ("granite", {**GATED, **heads(3, 1, 16), "pad_token_id": 0, "embedding_multiplier": 1.7,
                            "attention_multiplier": 0.3, "residual_multiplier": 0.6, "logits_scaling": 1.9}),
    "gpt-oss, its attention": ("gpt_oss", {
        **GATED, **heads(6, 2, 8), "sliding_window": 6, "pad_token_id": 0, "num_local_experts": 2, "num_experts_per_tok": 1}),
}  # fmt: skip
"""By name: the library's model type and the options of its config."""


class Dense(nn.Module):
    """A feed-forward in place of experts, where the attention is what is looked at; gives no routing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.down(torch.nn.functional.silu(self.up(x))), None


def built(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model of a row, its weights made random where they are not."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, options = FAMILIES[name]
    torch.manual_seed(sum(map(ord, name)))
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options)).eval()
    if name == "gpt-oss, its attention":
        for layer in model.model.layers:
            layer.mlp = Dense(options["hidden_size"])
    stir(model)
    return model.to(dtype)


def stir(model: nn.Module) -> None:
    """Biases, norms and sinks as training might leave them: fresh ones hide what becomes of them."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))


HEAD = """\
# Models

What capture is held to. Nothing in the compiler knows any of these by name: each is a small model made from its config by the
`transformers` library, with random weights, and its program must give the numbers of the original in float64, to a relative
error of 1e-5 in every form of a step: a whole prompt, chunks of it, token by token, and several sequences of unequal length at
once (`tests/e2e/test_families.py`). Other models of that library, and modules of your own, are captured by the same rules or
refused with the node and the line; [architecture.md](architecture.md) says what they prove.

Where rotary frequencies depend on the length of a sequence, they are those of `max_context` for every sequence, which
`explain()` tells. Of the model with sinks this is about the attention: a plain feed-forward stands in place of its experts.

This page is written by `python -m tests.e2e.families`, and a test holds it to what is captured.

| model | type in the library | heads, and of keys | scores | keys |
|---|---|---|---|---|
"""


def row(name: str, program: Program) -> str:
    """The line of the page about a model: its heads, and the expressions of its attentions."""
    attentions = program.find("attention")
    counts = dict.fromkeys(f"{type_of(a.args[0]).fixed[0]}, {type_of(a.args[1]).fixed[0]}" for a in attentions)
    sunk = ", with sinks" if any(len(a.args) > 3 and a.args[3] is not None for a in attentions) else ""
    scores, keys = (dict.fromkeys(str(a.kwargs[k]).replace("|", "\\|") for a in attentions) for k in ("score", "admits"))
    cells = ("; ".join(counts), "; ".join(f"`{e}`" for e in scores) + sunk, "; ".join(f"`{e}`" for e in keys))
    return f"| {name} | `{FAMILIES[name][0]}` | {' | '.join(cells)} |\n"


if __name__ == "__main__":
    from llmc.capture.capture import capture

    Path("docs/models.md").write_text(HEAD + "".join(row(name, capture(built(name)).program) for name in FAMILIES))
