"""A model small enough to be worked out by hand, which follows the step contract to the letter."""

from contextlib import contextmanager

import numpy as np
import pytest

from llmc.runtime.contract import BLOCK, Context, Executable

GARBAGE = -(10**9)


class ToyContext(Context):
    """The cache keeps token ids; the logits of a row hash all ids of its sequence and their positions."""

    def __init__(self, cache_blocks: int, vocab_size: int, forced: dict[int, int]):
        self.cache = np.full((cache_blocks, BLOCK), GARBAGE, dtype=np.int64)
        self.vocab_size, self.forced = vocab_size, forced
        self.steps: list[int] = []

    def step(self, batch):
        batch.check(len(self.cache))
        self.steps.append(batch.tokens)
        for source, target in batch.copies:
            self.cache[target] = self.cache[source]
        for sequence, start, stop in batch.runs():
            position = batch.position[start:stop]
            blocks = batch.blocks[sequence][position // BLOCK]
            self.cache[blocks, position % BLOCK] = batch.inputs["input_ids"][start:stop]
        rows = [self.row(batch.blocks[int(batch.sequence[r])], int(batch.position[r])) for r in batch.out_rows]
        return {"logits": np.array(rows, dtype=np.float32).reshape(len(rows), self.vocab_size)}

    def row(self, table, position):
        ids = self.cache[table].ravel()[: position + 1]
        assert ids.min() >= 0, "a position was read that was never written"
        return toy_logits(ids.tolist(), self.vocab_size, self.forced)


def toy_logits(ids: list[int], vocab_size: int, forced: dict[int, int]) -> np.ndarray:
    """Of the token after `ids`; `forced` says which token follows another whatever comes before."""
    mixed = sum((position + 1) * (token + 1) for position, token in enumerate(ids))
    logits = 3 * np.sin(np.arange(vocab_size) * 1.7 + mixed * 0.618).astype(np.float32)
    if ids[-1] in forced:
        logits[forced[ids[-1]]] = 1000
    return logits


class ToyExecutable(Executable):
    def __init__(self, vocab_size: int = 2048, forced: dict[int, int] | None = None):
        self.vocab_size, self.forced = vocab_size, forced or {}
        self.contexts: list[ToyContext] = []

    def context(self, cache_blocks, threads=None):
        self.contexts.append(ToyContext(cache_blocks, self.vocab_size, self.forced))
        return self.contexts[-1]

    def sources(self):
        return {"toy.py": "rows = hash(ids)\n", "part/more.txt": "more\n"}

    @contextmanager
    def lease(self, blocks):
        yield self.context(blocks)

    def logits(self, ids: list[int]) -> np.ndarray:
        """What the model should say after `ids`, without cache, steps or batches."""
        return toy_logits(ids, self.vocab_size, self.forced)


@pytest.fixture
def toy():
    """Makes executables: toy(vocab_size, forced={token: token that follows it})."""
    return ToyExecutable
