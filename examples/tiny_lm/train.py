"""Train the bundled language model on the source of the Python standard library.

    python examples/tiny_lm/train.py --out examples/tiny_lm/model --cpu-minutes 156

The length is a budget of processor time, so that the result does not depend on what else the machine does:
156 processor minutes are 78 minutes of two cores. A run that is interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Annotated

import corpus
import numpy as np
import torch
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 2048
CONTEXT = 512
SIZES = {
    "3.7M": dict(hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2),
    "260K": dict(hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2),
}


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (Sennrich et al. 2016) in which every byte string has an encoding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT)


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> np.ndarray:
    """All texts as one stream of ids, uint16, an end-of-text token before each."""
    end = tokenizer.eos_token_id
    encoded = tokenizer.backend_tokenizer.encode_batch(texts)
    return np.concatenate([np.array([end, *item.ids], dtype=np.uint16) for item in encoded])


def new_model(size: str, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        rms_norm_eps=1e-5,
        **SIZES[size],
    )
    return LlamaForCausalLM(config)


def learning_rate(progress: float, step: int, peak: float) -> float:
    """Linear warm-up over 200 steps, constant, then a linear fall to zero over the last 40% (Hu et al. 2024)."""
    return peak * min(1.0, (step + 1) / 200, max(0.0, (1.0 - progress) / 0.4))


def batches(stream: np.ndarray, batch: int, seed: int):
    """Endless random windows of CONTEXT + 1 tokens: int64 `[batch, CONTEXT + 1]`."""
    generator = np.random.default_rng(seed)
    while True:
        starts = generator.integers(0, len(stream) - CONTEXT - 1, size=batch)
        yield torch.from_numpy(np.stack([stream[s : s + CONTEXT + 1] for s in starts]).astype(np.int64))


def main(
    out: Annotated[Path, typer.Option(help="Folder for the trained model.")],
    cpu_minutes: Annotated[float, typer.Option(help="Processor time to train for.")] = 156.0,
    size: Annotated[str, typer.Option(help="One of: " + ", ".join(SIZES))] = "3.7M",
    batch: Annotated[int, typer.Option(help="Sequences a step.")] = 8,
    peak: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-3,
    seed: int = 0,
) -> None:
    torch.set_num_threads(2)
    out.mkdir(parents=True, exist_ok=True)
    texts = list(corpus.training(corpus.standard_library()))
    if (out / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out)
    else:
        tokenizer = train_tokenizer(texts)
        tokenizer.model_max_length = CONTEXT
        tokenizer.save_pretrained(out)
    stream = encode(tokenizer, texts)
    held = torch.from_numpy(encode(tokenizer, list(corpus.held_out(corpus.standard_library()))).astype(np.int64))
    held = held[: len(held) // CONTEXT * CONTEXT].view(-1, CONTEXT)[:24]
    model = new_model(size, seed)
    print(f"{len(texts)} files, {len(stream):,} tokens; {model.num_parameters():,} parameters", flush=True)

    decay = [p for p in model.parameters() if p.ndim == 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), fused=True)
    checkpoint = out / "checkpoint.pt"
    step, spent, seen = 0, 0.0, 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent, seen = state["step"], state["spent"], state["seen"]
    compiled = torch.compile(model.model)
    began, first, wall = time.process_time(), step, time.time()
    for window in batches(stream, batch, seed + step):
        progress = (spent + time.process_time() - began) / (60 * cpu_minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, step, peak)
        hidden = compiled(window[:, :-1]).last_hidden_state
        loss = F.cross_entropy(model.lm_head(hidden).flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, seen = step + 1, seen + batch * CONTEXT
        if step % 50 == 0:
            rate = (step - first) * batch * CONTEXT / (time.time() - wall)
            print(f"step {step} {100 * progress:.1f}% loss {loss.item():.4f} {rate:.0f} tokens/s", flush=True)
        if step % 500 == 0:
            with torch.no_grad():
                losses = [model(row[None], labels=row[None]).loss.item() for row in held]
            print(f"step {step} held-out loss {math.fsum(losses) / len(losses):.4f} nats a token", flush=True)
            spent_now = spent + time.process_time() - began
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                     "step": step, "spent": spent_now, "seen": seen}
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
    minutes = (spent + time.process_time() - began) / 60
    model.to(torch.bfloat16).save_pretrained(out)
    record = {"steps": step, "tokens": seen, "processor_minutes": round(minutes, 1), "batch": batch, "peak_rate": peak}
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    typer.run(main)
