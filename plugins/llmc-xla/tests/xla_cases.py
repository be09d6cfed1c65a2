"""Small programs and models for the tests, on the helpers of the conformance suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from llmc_xla.backend import XlaBackend
from torch import nn

from llmc.capture.capture import capture
from llmc.conformance import forms, modules, programs
from llmc.conformance.forms import relative_error as error
from llmc.conformance.programs import WIDTH
from llmc.conformance.programs import exact as reference
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.program import Program
from llmc.ir.weights import Stored
from llmc.pipeline.recipe import resolve
from llmc.plugins.registry import default
from llmc.runtime.lowering import lower

TINY_LM = Path(__file__).parents[3] / "examples" / "tiny_lm" / "model"

__all__ = ["TINY_LM", "WIDTH", "Runner", "captured", "chunked", "error", "library_model", "lowered", "program_of",
           "random_ids", "reference"]  # fmt: skip


def program_of(make: Callable[..., Any], tables: torch.dtype = torch.float32) -> Program:
    """Around `make(editor, a, b)` with a, b float32 `[T, 36]`, rows of tables in a dtype; the result is flattened."""
    torch.manual_seed(5)
    editor = Editor()
    ids = editor.input("input_ids")
    weights = [editor.weight(Stored(torch.randn(programs.VOCAB, WIDTH).to(tables)), name) for name in ("a", "b")]
    result = make(editor, *(editor.op(ops.embedding, ids, table) for table in weights))
    result = editor.op(ops.reshape, result, shape=(result.meta["type"].width,))
    editor.outputs = ("logits",)
    editor.graph.output((result,))
    return editor.finish()


def library_model(kind: str) -> nn.Module:
    """A small model of the `transformers` library, of two layers: "rope" with grouped heads, or "learned" positions."""
    sizes = {"num_hidden_layers": 2, "max_position_embeddings": 256} if kind == "rope" else {"n_layer": 2, "n_positions": 256}
    return modules.library_model(kind, 3, **sizes)


def captured(module: nn.Module, recipe: str = "fuse") -> Program:
    """Its program after a recipe."""
    return resolve(recipe).run(capture(module).program, default()).program


def random_ids(count: int, seed: int = 0, vocab: int = programs.VOCAB) -> list[int]:
    """Token ids."""
    return programs.some_ids(count, vocab, seed)


class Runner(forms.Runner):
    """Sequences of a context of their own, stepped by hand."""

    def __init__(self, executable: Any) -> None:
        super().__init__(executable.context(forms.CACHE_BLOCKS))


def chunked(executable: Any, ids: list[int], size: int = 10**6) -> Any:
    """The first output of one sequence, `size` tokens a step."""
    return forms.chunked(executable.context(forms.CACHE_BLOCKS), ids, size)


def lowered(program: Program) -> Any:
    """Its executable."""
    return lower(XlaBackend(), XlaBackend.name, program).executable
