"""Compile the bundled model to int8, let it write Python, and print what that cost in quality and gained in speed.

    python examples/demo.py
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import llmc
from llmc.evaluate.divergence import divergence
from llmc.evaluate.latency import original_decode_speed

MODEL = Path(__file__).resolve().parent / "tiny_lm" / "model"
PROMPT = '''class Stack:
    """A stack of items."""

    def __init__(self):
        self.items = []

    def push(self, item):'''
NEW_TOKENS = 120
TEXT_TOKENS = 20_000


def main() -> None:
    logging.disable_progress_bar()
    console = Console()
    began = time.perf_counter()
    model = llmc.compile(MODEL, recipe="int8", backend="cpu")
    console.print(f"compiled in {time.perf_counter() - began:.1f} s\n")
    print(model.explain())

    how = dict(max_new_tokens=NEW_TOKENS, temperature=0.7, top_p=0.9, seed=3)
    model.generate(PROMPT, **how)  # the first run touches memory for the first time
    result = model.generate(PROMPT, **how)
    console.print(Syntax(PROMPT + (result.text or ""), "python", background_color="default"))

    original = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16).eval()
    speed = original_decode_speed(original, model.tokenizer.encode(PROMPT), NEW_TOKENS)
    ids = model.tokenizer.encode((MODEL / "heldout.txt").read_text())[:TEXT_TOKENS]
    console.print(f"\nreading {len(ids):,} tokens of text that neither has seen ...")
    quality = divergence(model, original.float(), ids, 512, dtype="float32")

    table = Table(title=f"{MODEL.parent.name}: torch, and compiled with recipe int8")
    for heading in ("", "torch", "llmc"):
        table.add_column(heading, justify="right" if heading else "left")
    size = sum(p.numel() * 2 for p in original.parameters()) / 1e6
    table.add_row("weights, MB", f"{size:.2f} (bf16)", f"{model.program.weight_bytes() / 1e6:.2f}")
    table.add_row("perplexity", f"{quality.original.perplexity:.4f} (fp32)", f"{quality.compiled.perplexity:.4f}")
    table.add_row("same most likely token", "", f"{quality.same_top1:.2%}")
    table.add_row("decode, tokens/s", f"{speed:.0f} (bf16)", f"{result.tokens_per_second:.0f}")
    console.print(table)
    console.print("the code that ran: llmc inspect examples/tiny_lm/model --recipe int8 --source")


if __name__ == "__main__":
    main()
