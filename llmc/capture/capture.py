"""From a module to a program: export, analysis of axes, row selection."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmc.capture.encoders import Call, call_of, library_part, outputs_of
from llmc.capture.export import Wrapper, export
from llmc.capture.frequencies import Resolved, resolved
from llmc.capture.interpret import Interpreter
from llmc.capture.lengths import MOST_POSITIONS, lengths_of
from llmc.capture.precision import HALF, hollow
from llmc.capture.rows import sink_rows
from llmc.capture.selfcheck import check_lengths
from llmc.errors import CaptureError
from llmc.ir.program import Program, type_of
from llmc.runtime.limits import input_specs

PREFIX = "module."
DEFAULT_CONTEXT = 4096
EXAMPLE_LENGTH = 7


@dataclass(frozen=True)
class Captured:
    """A program, and what capture learned besides: the length that the model's positions allow, its vocabulary, and what it
    decided that is worth telling.

    padding: an id that the program holds without only; None if there is none.
    """

    program: Program
    max_context: int
    vocab_size: int
    notes: tuple[str, ...] = ()
    padding: int | None = None


def capture(
    module: nn.Module, example_inputs: Any = None, max_context: int | None = None, kind: str = "causal"
) -> Captured:
    """A causal language model, ids `[1, S]` to logits `[1, S, V]` (or of the last position alone), as a program.

    kind: one of `KINDS`; an encoder may read whole sequences, and has all its outputs by name.
    The module is left as it was found. Weights stay shared with it, in the precision they have. Raises CaptureError, naming
    node, module and source line, where positions are not provably kept apart by everything but causal attention.
    """
    if not isinstance(module, nn.Module):
        raise CaptureError(f"llmc compiles an nn.Module, a folder or a hub id, not {type(module).__name__}")
    whole = kind == "encoder"
    call = call_of(module, example_inputs, EXAMPLE_LENGTH) if whole else Call(_example_ids(module, example_inputs))
    ids, others, read = call.ids, dict(call.others), outputs_of if whole else None
    stated = _stated(module)
    with ready(module) as prepared, ExitStack() as rotary, ExitStack() as stack:
        length, decided = max_context or stated or DEFAULT_CONTEXT, Resolved()
        opaque: dict[str, Callable[..., Any]] = {}
        library = library_part(prepared)
        if library is not None:
            from llmc.capture import adapter

            decided = rotary.enter_context(resolved(library, length))
            opaque = stack.enter_context(adapter.adapted(library))
        parameters = dict(Wrapper(prepared, call.constants, read).named_parameters(remove_duplicate=False))
        with hollow(prepared):
            exported = export(Wrapper(prepared, call.constants, read), ids, others, opaque)
        lengths = lengths_of(exported, type(module).__name__)
        interpreter = Interpreter(exported, PREFIX, opaque, parameters, tuple(others), whole, call.padding)
        results = interpreter.run()
        lengths.check(type(module).__name__)
        editor = interpreter.builder.editor
        editor.graph.output(tuple(result.node for result in results))
        editor.outputs = tuple(exported.call_spec.out_spec.context)  # type: ignore[union-attr]
        if not whole:
            sink_rows(editor)
        program = editor.finish()
        limits = {name: spec.limit for name, spec in input_specs(program).items()}
        if 0 in limits.values():
            raise CaptureError("the module subtracts from its ids or positions before it looks them up: the first is negative")
        if decided.unlimited and max_context:
            stated = None
        longest = interpreter.builder.longest
        bound = min((b for b in (limits.get("position"), lengths.longest, longest, stated) if b), default=None)
        padding = interpreter.builder.excluded
        if padding is not None and bool((ids == padding).any()):
            raise CaptureError(f"the example ids hold {padding}, which pads: batches are ragged, without padding")
        stack.close()  # the module as its author wrote it, attention and all
        possible = [length for length in lengths.apart if 0 < length <= (bound or length)]
        check_lengths(Wrapper(prepared, call.constants, read), program, ids, others, possible)
    allowed = min(bound or MOST_POSITIONS, MOST_POSITIONS)
    if max_context is not None and max_context > allowed:
        raise CaptureError(f"max_context={max_context} is beyond the {allowed} positions that are possible for this model")
    context = max_context or (allowed if bound else DEFAULT_CONTEXT)
    if decided.notes and context != length:
        raise CaptureError(f"{decided.notes[0]}, but {context} are possible: give max_context={context}")
    return Captured(program, context, vocabulary(program, limits["input_ids"]), tuple(decided.notes), padding)


def _stated(module: nn.Module) -> int | None:
    """How long a context the config of a module allows, or of the model of the library in it; None if neither tells."""
    for part in (module, library_part(module)):
        found = getattr(getattr(part, "config", None), "max_position_embeddings", None)
        if found:
            return int(found)
    return None


def _example_ids(module: nn.Module, example_inputs: tuple[Tensor, ...] | None) -> Tensor:
    if example_inputs is None:
        if not hasattr(module, "config"):
            raise CaptureError(
                f"{type(module).__name__} needs example_inputs=(ids,), an int64 tensor [1, S] of valid token ids"
            )
        return torch.arange(EXAMPLE_LENGTH)[None] % 5
    if not isinstance(example_inputs, tuple | list) or len(example_inputs) != 1 or not isinstance(example_inputs[0], Tensor):
        raise CaptureError("example_inputs must be a tuple of one tensor, the token ids: example_inputs=(ids,)")
    ids = example_inputs[0]
    if ids.dtype != torch.int64 or ids.ndim != 2 or ids.shape[1] < 2:
        raise CaptureError(f"example ids must be int64 [1, S] with S of at least 2, got {ids.dtype} {list(ids.shape)}")
    return ids[:1].contiguous()


@contextmanager
def ready(module: nn.Module) -> Iterator[nn.Module]:
    """The module in evaluation mode with buffers in float32, put back afterwards; a copy in float32 if it is in float64."""
    if any(p.dtype == torch.float64 for p in module.parameters()):
        module = copy.deepcopy(module).float()
    before = [(m, m.training, dict(m._buffers)) for m in module.modules()]
    module.eval()
    try:
        for m, _, buffers in before:
            m._buffers.update({name: b.float() for name, b in buffers.items() if b is not None and b.dtype in HALF})
        yield module
    finally:
        for m, mode, buffers in before:  # a forward may put other tensors in place of buffers
            m.training = mode
            m._buffers.update(buffers)


def vocabulary(program: Program, limit: int | None) -> int:
    """How many ids there are: those that the tables they index have rows for; if they are changed first, rows of the table."""
    if limit is not None:
        return limit
    reached = set()
    for node in program.graph.nodes:  # whatever is computed from the ids
        if node.target == "input_ids" or any(arg in reached for arg in node.all_input_nodes):
            reached.add(node)
    rows = [int(type_of(node.args[1]).shape[0]) for node in program.find("embedding") if node.args[0] in reached]
    if not rows:
        raise CaptureError("the module looks its input ids up in no embedding table; is it a language model?")
    return min(rows)
