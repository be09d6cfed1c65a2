"""From a module to a program: export, analysis of axes, row selection."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmc.capture.interpret import Interpreter
from llmc.capture.rows import sink_rows
from llmc.capture.rules import load_rules
from llmc.errors import CaptureError
from llmc.ir import ops
from llmc.ir.program import Program, type_of

PREFIX = "module."
DEFAULT_CONTEXT = 4096
EXAMPLE_LENGTH = 7


@dataclass(frozen=True)
class Captured:
    """A program, and what capture learned besides: the length that the model's positions allow, and its vocabulary."""

    program: Program
    max_context: int
    vocab_size: int


class Wrapper(nn.Module):
    """Calls the user's module with ids (and keywords made for the call) and gives its first output."""

    def __init__(self, module: nn.Module, keywords: Callable[[], dict[str, Any]]) -> None:
        super().__init__()
        self.module, self.keywords = module, keywords

    def forward(self, input_ids: Tensor) -> Tensor:
        result = self.module(input_ids, **self.keywords())
        if isinstance(result, Tensor):
            return result
        found = getattr(result, "logits", None)
        if found is None:
            found = result.get("logits") if isinstance(result, dict) else result[0]
        if not isinstance(found, Tensor):
            name = type(self.module).__name__
            raise CaptureError(f"{name} returns {type(result).__name__}, in which no tensor of logits is found")
        return found


def capture(module: nn.Module, example_inputs: tuple[Tensor, ...] | None = None, max_context: int | None = None) -> Captured:
    """A causal language model, ids `[1, S]` to logits `[1, S, V]` (or of the last position alone), as a program.

    The module is left as it was found. Weights stay shared with it where they are float32. Raises CaptureError, naming node,
    module and source line, where positions are not provably kept apart by everything but causal attention.
    """
    if not isinstance(module, nn.Module):
        raise CaptureError(f"llmc compiles an nn.Module, a folder or a hub id, not {type(module).__name__}")
    ids = _example_ids(module, example_inputs)
    from_library = hasattr(module, "set_attn_implementation") and hasattr(module, "config")
    with ready(module) as prepared, ExitStack() as stack:
        opaque: dict[str, Callable[..., Any]] = {}
        keywords: Callable[[], dict[str, Any]] = dict
        if from_library:
            from llmc.capture import adapter

            opaque, keywords = stack.enter_context(adapter.adapted(prepared)), adapter.keywords
        exported = export(Wrapper(prepared, keywords), ids, opaque)
        interpreter = Interpreter(exported, PREFIX, opaque)
        results = interpreter.run()
    editor = interpreter.builder.editor
    editor.graph.output(tuple(result.node for result in results[:1]))
    editor.outputs = ("logits",)
    sink_rows(editor)
    program = editor.finish()
    stated = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    bound = min((b for b in (*looked_up(program, "position"), *length_bounds(exported), stated) if b), default=None)
    if max_context is not None and bound is not None and max_context > bound:
        raise CaptureError(f"max_context={max_context} is beyond the {bound} positions that the model was made for")
    return Captured(program, max_context or bound or DEFAULT_CONTEXT, vocabulary(program))


def _example_ids(module: nn.Module, example_inputs: tuple[Tensor, ...] | None) -> Tensor:
    if example_inputs is None:
        if not hasattr(module, "config"):
            raise CaptureError(
                f"{type(module).__name__} needs example_inputs=(ids,), an int64 tensor [1, S] of valid token ids"
            )
        return torch.arange(EXAMPLE_LENGTH)[None] % 5
    if len(example_inputs) != 1 or not isinstance(example_inputs[0], Tensor):
        raise CaptureError("example_inputs must be a tuple of one tensor, the token ids")
    ids = example_inputs[0]
    if ids.dtype != torch.int64 or ids.ndim != 2 or ids.shape[1] < 2:
        raise CaptureError(f"example ids must be int64 [1, S] with S of at least 2, got {ids.dtype} {list(ids.shape)}")
    return ids[:1].contiguous()


@contextmanager
def ready(module: nn.Module) -> Iterator[nn.Module]:
    """The module in float32 and evaluation mode (a copy if its weights are in another dtype), put back afterwards."""
    if any(p.is_floating_point() and p.dtype != torch.float32 for p in module.parameters()):
        module = copy.deepcopy(module).float()
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield module
    finally:
        for m, mode in modes:
            m.training = mode


def export(wrapper: nn.Module, ids: Tensor, opaque: dict[str, Callable[..., Any]]) -> torch.export.ExportedProgram:
    """The aten graph of the wrapper over ids `[1, S]`, ops without a rule decomposed where torch knows how."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch's about its own use of itself
            exported = torch.export.export(wrapper, (ids,), dynamic_shapes=({1: torch.export.Dim.AUTO},), strict=False)
            exported = exported.run_decompositions({})
            known = {**load_rules(), **opaque}
            table = torch.export.default_decompositions()
            unknown = {
                node.target
                for node in exported.graph.nodes
                if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.name not in known
            }
            wanted = {target: table[target] for target in unknown if target in table}
            if wanted:
                exported = exported.run_decompositions(wanted)
    except CaptureError:
        raise
    except Exception as error:  # whatever the user's forward raises under tracing
        reason = str(error).strip().split("\n")[0]
        raise CaptureError(f"torch.export cannot trace {type(wrapper.module).__name__}: {reason}") from error
    length = next(n for n in exported.graph.nodes if n.op == "placeholder" and n.name == "input_ids").meta["val"].shape[1]
    if isinstance(length, int):
        raise CaptureError(
            f"{type(wrapper.module).__name__} works for sequences of {length} tokens only: its code fixes the length; "
            "take sizes from the input"
        )
    return exported


def length_bounds(exported: torch.export.ExportedProgram) -> list[int]:
    """Upper bounds on the length that the module's own checks imply."""
    return [int(r.upper) for r in exported.range_constraints.values() if getattr(r.upper, "is_Integer", False)]


def looked_up(program: Program, name: str) -> list[int]:
    """Rows of each table that is indexed by an input of the program, at all tokens or at the rows of output alone."""
    found = []
    for node in program.find("embedding"):
        source: Any = node.args[0]
        while source.target is ops.select_rows:
            source = source.args[0]
        if source.op == "placeholder" and source.target == name:
            found.append(int(type_of(node.args[1]).shape[0]))
    return found


def vocabulary(program: Program) -> int:
    """Rows of the table that ids are looked up in."""
    sizes = looked_up(program, "input_ids")
    if not sizes:
        raise CaptureError("the module looks its input ids up in no embedding table; is it a language model?")
    return min(sizes)
