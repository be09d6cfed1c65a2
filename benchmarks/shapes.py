"""The shapes that are compared: published configurations filled with random numbers, on which speed does not depend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

POSITIONS = 8192
"""Of each shape, so that every workload fits; a published limit below it changes nothing but a table of rotations."""


@dataclass(frozen=True)
class Shape:
    """A decoder with rotated positions, grouped heads and a gated feed-forward, or an encoder with learned positions.

    tied: the head is the embedding table. folder: a model of this project, in place of random numbers. Sizes are counts.
    """

    name: str
    vocab: int
    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool = True
    encoder: bool = False
    folder: str = ""

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def layer_weights(self) -> int:
        """Numbers in the matrices of all layers."""
        mixed = 2 * self.width * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (mixed + (2 if self.encoder else 3) * self.width * self.hidden)

    @property
    def head_weights(self) -> int:
        """Numbers in the output head; an encoder has none."""
        return 0 if self.encoder else self.vocab * self.width

    def flops(self, tokens: int, attended: int, rows: int) -> int:
        """Executed for so many tokens that attend to `attended` positions in all, with logits of `rows` of them."""
        attention = 4 * self.layers * self.heads * self.head_dim * attended
        return 2 * (self.layer_weights * tokens + self.head_weights * rows) + attention

    def config(self) -> Any:
        """The configuration of the `transformers` library, without an id that ends a text."""
        from transformers import BertConfig, LlamaConfig

        sizes = {
            "vocab_size": self.vocab, "hidden_size": self.width, "intermediate_size": self.hidden,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
        }  # fmt: skip
        if self.encoder:
            return BertConfig(**sizes, max_position_embeddings=512)
        return LlamaConfig(
            **sizes, num_key_value_heads=self.kv_heads, tie_word_embeddings=self.tied, max_position_embeddings=POSITIONS,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("smollm2-135m", 49152, 576, 1536, 30, 9, 3),
        Shape("smollm2-360m", 49152, 960, 2560, 32, 15, 5),
        Shape("llama-3.2-1b", 128256, 2048, 8192, 16, 32, 8),
        Shape("tinyllama-1.1b", 32000, 2048, 5632, 22, 32, 4, tied=False),
        Shape("tiny-lm", 2048, 256, 768, 4, 4, 2, folder="examples/tiny_lm/model"),
        Shape("tiny", 512, 128, 256, 2, 4, 2),
        Shape("minilm-l6", 30522, 384, 1536, 6, 12, 12, encoder=True),
        Shape("bert-base", 30522, 768, 3072, 12, 12, 12, encoder=True),
        Shape("tiny-encoder", 512, 128, 256, 2, 4, 4, encoder=True),
    )
}
