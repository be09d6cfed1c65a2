"""Sentence embeddings beside the original's: rank correlation on the STS benchmark, and texts a second.

    python benchmarks/embeddings.py FOLDER --pairs sts-dev.csv [--recipe int8] [--threads 2]

FOLDER: one of `sentence-transformers`. The original is run by torch in float32, one text at a time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

import llmc
from llmc.capture.source import open_source
from llmc.evaluate.similarity import read_pairs, similarity
from llmc.runtime.tokenizer import Tokenizer

Encode = Callable[[list[str]], NDArray[np.float32]]


def original(folder: str, limit: int) -> Encode:
    """The module of the folder, text by text."""
    source = open_source(folder)
    assert source.folder is not None
    tokenizer, module = Tokenizer(source.folder), source.module.eval()

    def encode(texts: list[str]) -> NDArray[np.float32]:
        with torch.no_grad():
            ids = [torch.tensor(tokenizer.encode_pair(text, None, limit)[0])[None] for text in texts]
            return np.concatenate([module(one)["embedding"].numpy() for one in ids])

    return encode


def timed(encode: Encode, pairs: str) -> tuple[float, float]:
    """Correlation, and seconds."""
    start = time.perf_counter()
    found = similarity(encode, pairs)
    return found, time.perf_counter() - start


def main() -> None:
    """Print a line for the original and one for llmc."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--pairs", required=True, help="a file of the STS benchmark")
    parser.add_argument("--recipe", default="none")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = llmc.compile(options.folder, recipe=options.recipe, threads=options.threads)
    texts = 2 * len(read_pairs(options.pairs)[0])
    ways = {
        "torch float32": original(options.folder, model.info.max_context),
        f"llmc {options.recipe}": lambda given: model.encode(given, truncate=True),
    }
    for name, encode in ways.items():
        correlation, seconds = timed(encode, options.pairs)
        print(f"{name:16} Spearman {correlation:.6f}   {texts / seconds:8.1f} texts/s")


if __name__ == "__main__":
    main()
