"""A model small enough to be worked out by hand, which follows the step contract to the letter."""

from contextlib import contextmanager

import numpy as np
import pytest

from llmc.errors import InputError
from llmc.ir.types import TensorType
from llmc.runtime.contract import BLOCK, Context, Executable, InputSpec, check_sizes

GARBAGE = -(10**9)


class Foreign:
    """What a device backend may return: an array that is not NumPy's but that np.asarray takes."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


class ToyContext(Context):
    """The cache keeps token ids; the logits of a row hash all ids of its sequence and their positions."""

    def __init__(self, executable, cache_blocks):
        self.executable, self.closed = executable, False
        self.cache = np.full((cache_blocks, BLOCK), GARBAGE, dtype=np.int64)
        self.steps: list[int] = []

    def close(self):
        self.closed = True

    def step(self, batch):
        if self.closed:
            raise InputError("this context was closed")
        batch.check(len(self.cache), self.executable.inputs)
        self.steps.append(batch.tokens)
        if self.executable.fails:
            raise self.executable.fails.pop()
        sources, targets = batch.copies.T
        self.cache[targets] = self.cache[sources]
        block = batch.tables[batch.run, batch.position // BLOCK]
        self.cache[block, batch.position % BLOCK] = batch.inputs["input_ids"]
        wanted = batch.out_rows if self.executable.rows == "R" else range(batch.tokens)
        rows = [self.row(batch.tables[batch.run[row]], batch.position[row]) for row in wanted]
        return {"logits": Foreign(np.array(rows, dtype=np.float32).reshape(len(rows), self.executable.vocab_size))}

    def row(self, table, position):
        ids = self.cache[table].ravel()[: position + 1]
        assert ids.min() >= 0, "a position was read that was never written"
        return self.executable.logits(ids.tolist())


def toy_logits(ids: list[int], vocab_size: int, forced: dict[int, int]) -> np.ndarray:
    """Of the token after `ids`; `forced` says which token follows another whatever comes before."""
    mixed = sum((position + 1) * (token + 1) for position, token in enumerate(ids))
    logits = 3 * np.sin(np.arange(vocab_size) * 1.7 + mixed * 0.618).astype(np.float32)
    if ids[-1] in forced:
        logits[forced[ids[-1]]] = 1000
    return logits


class ToyExecutable(Executable):
    """rows: what the logits are given for, "R" or "T". fails: exceptions that the next steps raise, the last one first."""

    row_exact, block_bytes = True, 8 * BLOCK

    def __init__(self, vocab_size: int = 2048, forced: dict[int, int] | None = None):
        self.vocab_size, self.forced = vocab_size, forced or {}
        self.inputs = {"input_ids": InputSpec("int64", (), vocab_size)}
        self.contexts: list[ToyContext] = []
        self.fails: list[BaseException] = []
        self.rows, self.output = "R", "logits"

    @property
    def outputs(self):
        return {self.output: TensorType("float32", (self.rows, self.vocab_size))}

    def context(self, cache_blocks, threads=None):
        self.contexts.append(ToyContext(self, check_sizes(cache_blocks, threads)[0]))
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
