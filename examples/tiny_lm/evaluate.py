"""Bits per byte of the bundled model, of other models of its kind and of a byte n-gram model, on the held-out text.

    python examples/tiny_lm/evaluate.py --other FOLDER

The n-gram model and the overlap check read the standard library of the running interpreter, so the figures of the
model card need the Python that `heldout.txt` was taken from, 3.11.7.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import corpus
import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

MODEL = Path(__file__).resolve().parent / "model"
CONTEXT = 512
BLOCK_LINES = 5


def held_out_text(folder: Path = MODEL) -> str:
    """The modules of `corpus.HELD_OUT`, in that order, with nothing between them."""
    return (folder / "heldout.txt").read_bytes().decode("utf-8")


def blocks(text: str) -> list[tuple[str, ...]]:
    """All runs of BLOCK_LINES lines, blank lines and indentation disregarded."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [tuple(lines[i : i + BLOCK_LINES]) for i in range(len(lines) - BLOCK_LINES + 1)]


def overlap(held: Iterable[str], training: Iterable[str]) -> tuple[int, int]:
    """How many blocks of the held-out modules occur in the training texts too, and of how many.

    Raises ValueError if a whole held-out module lies in a training text, or a whole training text in a module.
    """
    modules = list(held)
    wanted = [block for module in modules for block in blocks(module)]
    looked_for, found = set(wanted), set()
    for text in training:
        if any(module in text or (text.strip() and text.strip() in module) for module in modules):
            raise ValueError(f"a held-out module and a training text contain one another: {text[:60]!r}...")
        found.update(looked_for.intersection(blocks(text)))
    return sum(block in found for block in wanted), len(wanted)


class ByteNgram:
    """A byte n-gram model with interpolated Witten-Bell smoothing.

    P(b | h) = (c(hb) + T(h) P(b | h')) / (c(h) + T(h)), where T(h) is the number of different bytes seen after the
    context h and h' is h without its first byte; under the unigrams lies the uniform distribution. Witten and Bell
    1991, "The zero-frequency problem", in the form of Chen and Goodman 1999, "An empirical study of smoothing
    techniques for language modeling". An n-gram is one unsigned 64-bit number, its last byte lowest.
    """

    def __init__(self, texts: Iterable[bytes], order: int = 5) -> None:
        if not 1 <= order <= 8:
            raise ValueError("the order must be from 1 to 8")
        self.order = order
        data = np.concatenate([self.keys(text) for text in texts])
        self.levels = []
        for length in range(order, 0, -1):
            grams, counts = np.unique(data & self.mask(length), return_counts=True)
            contexts, first, kinds = np.unique(grams >> np.uint64(8), return_index=True, return_counts=True)
            totals = np.add.reduceat(counts, first)
            self.levels.insert(0, (grams, counts, contexts, totals, kinds))

    @staticmethod
    def mask(length: int) -> np.uint64:
        return np.uint64(256**length - 1)

    def keys(self, text: bytes) -> np.ndarray:
        """The n-gram that ends in each byte of `text`; line feeds stand before the first byte."""
        padded = np.frombuffer(b"\n" * (self.order - 1) + text, dtype=np.uint8).astype(np.uint64)
        keys = np.zeros(len(text), dtype=np.uint64)
        for offset in range(self.order):
            keys = keys << np.uint64(8) | padded[offset : offset + len(text)]
        return keys

    def probabilities(self, keys: np.ndarray) -> np.ndarray:
        """The probability of the last byte of each n-gram after the bytes before it."""
        result = np.full(len(keys), 1 / 256)
        for length, (grams, counts, contexts, totals, kinds) in enumerate(self.levels, 1):
            wanted = keys & self.mask(length)
            count = look_up(grams, counts, wanted)
            total = look_up(contexts, totals, wanted >> np.uint64(8))
            kind = look_up(contexts, kinds, wanted >> np.uint64(8))
            result = np.where(total > 0, (count + kind * result) / np.maximum(total + kind, 1), result)
        return result

    def bits_per_byte(self, text: bytes) -> float:
        return float(-np.log2(self.probabilities(self.keys(text))).mean())

    def __len__(self) -> int:
        """The number of stored n-grams of all lengths."""
        return sum(len(level[0]) for level in self.levels)


def look_up(sorted_keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where there is none."""
    place = np.minimum(np.searchsorted(sorted_keys, wanted), len(sorted_keys) - 1)
    return np.where(sorted_keys[place] == wanted, values[place], 0)


@torch.inference_mode()
def model_bits_per_byte(folder: Path, text: str, tokens: int | None = None) -> tuple[float, int]:
    """Bits per byte in float32 and the number of parameters; `tokens` limits the text to its first tokens.

    The text is cut into windows of 511 tokens. Each is scored on its own after an end-of-text token, so that every
    token of the text is scored exactly once and no window sees the one before.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)[:tokens]
    scored = text if tokens is None else tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if not text.startswith(scored):
        raise ValueError("the tokens do not decode to the text")
    nats = []
    for start in range(0, len(ids), CONTEXT - 1):
        window = torch.tensor([tokenizer.bos_token_id, *ids[start : start + CONTEXT - 1]])
        logits = model(window[None, :-1]).logits[0]
        nats.append(torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item())
    return math.fsum(nats) / math.log(2) / len(scored.encode("utf-8")), model.num_parameters()


def main(
    model: Annotated[Path, typer.Option(help="Folder of the model; it holds `heldout.txt` too.")] = MODEL,
    other: Annotated[list[Path] | None, typer.Option(help="Folder of a further model; may be repeated.")] = None,
    order: Annotated[int, typer.Option(help="Length of the byte n-grams, 1 to 8.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print bits per byte on the held-out text; lower is better."""
    text = held_out_text(model)
    root = corpus.standard_library()
    modules = list(corpus.held_out(root))
    if "".join(modules) != text:
        raise typer.BadParameter("heldout.txt is not from this interpreter's standard library; use Python 3.11.7")
    training = list(corpus.training(root))
    shared, total = overlap(modules, training)

    rows = []
    for folder in [model, *(other or [])]:
        bits, parameters = model_bits_per_byte(folder, text)
        rows.append({"model": f"Llama, {parameters:,} parameters", "bits_per_byte": round(bits, 4)})
    ngram = ByteNgram([item.encode("utf-8") for item in training], order)
    bits = ngram.bits_per_byte(text.encode("utf-8"))
    rows.append({"model": f"byte {order}-gram, Witten-Bell, {len(ngram):,} n-grams", "bits_per_byte": round(bits, 4)})

    size = len(text.encode("utf-8"))
    if as_json:
        check = {"lines_a_block": BLOCK_LINES, "blocks": total, "blocks_in_training": shared}
        print(json.dumps({"bytes": size, "overlap": check, "results": rows}, indent=2))
        return
    table = Table(title=f"Held-out text, {size:,} bytes", caption="lower is better")
    table.add_column("model")
    table.add_column("bits per byte", justify="right")
    for row in rows:
        table.add_row(str(row["model"]), f"{row['bits_per_byte']:.4f}")
    console = Console()
    console.print(f"No held-out module is in the {len(training):,} training texts; {shared} of its {total:,} blocks of "
                  f"{BLOCK_LINES} lines are.")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
