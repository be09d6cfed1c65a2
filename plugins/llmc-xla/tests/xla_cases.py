"""Small programs and models for the tests, and the forms of a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llmc_xla.backend import XlaBackend
from torch import nn

from llmc.capture.capture import capture
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.program import Program
from llmc.ir.weights import Stored
from llmc.pipeline.recipe import resolve
from llmc.plugins.registry import default
from llmc.runtime.sequences import Sequences

BLOCKS, VOCAB, WIDTH = 64, 19, 36
TINY_LM = Path(__file__).parents[3] / "examples" / "tiny_lm" / "model"


def program_of(make: Callable[..., Any], tables: torch.dtype = torch.float32) -> Program:
    """Around `make(editor, a, b)` with a, b float32 `[T, 36]`, rows of tables in a dtype; the result is flattened."""
    torch.manual_seed(5)
    editor = Editor()
    ids = editor.input("input_ids")
    weights = [editor.weight(Stored(torch.randn(VOCAB, WIDTH).to(tables)), name) for name in ("a", "b")]
    result = make(editor, *(editor.op(ops.embedding, ids, table) for table in weights))
    result = editor.op(ops.reshape, result, shape=(result.meta["type"].width,))
    editor.outputs = ("out",)
    editor.graph.output((result,))
    return editor.finish()


def reference(program: Program, ids: list[int]) -> Any:
    """The first output in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            return next(iter(program.as_module().double()(torch.tensor(ids)).values())).numpy()
    finally:
        torch.set_default_dtype(torch.float32)


def library_model(kind: str) -> nn.Module:
    """A small model of the `transformers` library: "rope" with grouped heads, or "learned" positions."""
    import transformers

    torch.manual_seed(3)
    if kind == "rope":
        sizes = {"hidden_size": 72, "intermediate_size": 136, "num_hidden_layers": 2, "num_attention_heads": 6}
        more = {"num_key_value_heads": 2, "head_dim": 20, "max_position_embeddings": 256}
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=101, **sizes, **more)).eval()
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=101, n_embd=60, n_layer=2, n_head=3, n_positions=256)
    ).eval()


def captured(module: nn.Module, recipe: str = "none") -> Program:
    """Its program after a recipe."""
    return resolve(recipe).run(capture(module).program, default()).program


def random_ids(count: int, seed: int = 0, vocab: int = VOCAB) -> list[int]:
    """Token ids."""
    return np.random.default_rng(seed).integers(0, vocab, count).tolist()


class Runner:
    """Sequences of a context of their own, stepped by hand."""

    def __init__(self, executable: Any, blocks: int = BLOCKS) -> None:
        self.context, self.sequences = executable.context(blocks), Sequences(blocks)

    def step(self, work: list[tuple[int, list[int]]]) -> Any:
        """All rows of the first output for runs of (sequence, ids)."""
        return next(iter(self.context.step(self.sequences.batch(work, ["all"] * len(work))).values()))


def chunked(executable: Any, ids: list[int], size: int = 10**6) -> Any:
    """The first output of one sequence, `size` tokens a step."""
    runner = Runner(executable)
    sequence = runner.sequences.create()
    return np.concatenate([runner.step([(sequence, ids[i : i + size])]) for i in range(0, len(ids), size)])


def error(values: Any, expected: Any) -> float:
    """Norm of the difference over the norm."""
    return float(np.linalg.norm(values - expected) / max(np.linalg.norm(expected), 1e-9))


def lowered(program: Program) -> Any:
    """Its executable."""
    return XlaBackend().lower(program)
