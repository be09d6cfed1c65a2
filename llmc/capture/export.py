"""torch.export of the user's module, and what its guards say about the lengths it works for."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn

from llmc.capture.rules import IGNORED, MIXERS, load_rules
from llmc.errors import CaptureError

MOST_ROUNDS = 8

WRITTEN_OUT = ("leaky_relu", "elu", "hardtanh", "_log_softmax", "linalg_vector_norm", "log_sigmoid_forward")
"""Ops that torch calls basic and that the dialect can do without."""


class Wrapper(nn.Module):
    """Calls the user's module with ids, other inputs by name, and keywords made for the call; gives its outputs by name."""

    def __init__(
        self,
        module: nn.Module,
        keywords: Callable[[Tensor], dict[str, Any]],
        read: Callable[[Any, str], dict[str, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.module, self.keywords, self.read = module, keywords, read or logits_of

    def forward(self, input_ids: Tensor, others: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.read(self.module(input_ids, **others, **self.keywords(input_ids)), type(self.module).__name__)


def logits_of(result: Any, name: str) -> dict[str, Tensor]:
    """The logits in what a module returned: a tensor, `logits` by name, or the only tensor of a tuple that can be logits."""
    return {"logits": _logits(result, name)}


def _logits(result: Any, name: str) -> Tensor:
    if isinstance(result, Tensor):
        return result
    found = result.get("logits") if isinstance(result, dict) else getattr(result, "logits", None)
    if isinstance(found, Tensor):
        return found
    tensors = [item for item in result if isinstance(item, Tensor)] if isinstance(result, list | tuple) else []
    likely = [item for item in tensors if item.ndim >= 2]
    if len(likely) == 1:
        return likely[0]
    what = f"{len(likely)} tensors that could be logits" if likely else f"{type(result).__name__}, with no tensor of logits"
    raise CaptureError(f"{name} returns {what}; let it return the logits alone, or under the name 'logits'")


def export(
    wrapper: Wrapper, ids: Tensor, others: dict[str, Tensor], opaque: dict[str, Callable[..., Any]]
) -> torch.export.ExportedProgram:
    """The aten graph of the wrapper over ids and others `[1, S]`; ops without a rule are decomposed while torch knows how.

    Raises CaptureError if the module cannot be traced.
    """
    known = {**load_rules(), **opaque}
    try:
        with torch.no_grad(), quiet():
            shapes = ({1: torch.export.Dim.AUTO}, {name: {1: torch.export.Dim.AUTO} for name in others})
            exported = torch.export.export(wrapper, (ids, others), dynamic_shapes=shapes, strict=False)
            if not is_plain(exported, known):
                exported = exported.run_decompositions({})
            for _ in range(MOST_ROUNDS):
                left = unknown(exported, known)
                table = decompositions() if left else {}
                wanted = {target: table[target] for target in left if target in table}
                if not wanted:
                    break
                exported = exported.run_decompositions(wanted)
    except CaptureError:
        raise
    except Exception as error:  # whatever the user's forward raises under tracing
        reason = str(error).strip().split("\n")[0]
        raise CaptureError(f"torch.export cannot trace {type(wrapper.module).__name__}: {reason}") from error
    return exported


def unknown(exported: torch.export.ExportedProgram, known: Container[str]) -> set[Any]:
    """The ops of a graph that are to be written out in terms of others."""
    targets = {node.target for node in exported.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}
    names = {target: target._schema.name for target in targets}
    return {target for target, name in names.items() if name not in known and name.split("::")[1] not in (*MIXERS, *IGNORED)}


def is_plain(exported: torch.export.ExportedProgram, known: Container[str]) -> bool:
    """Whether all ops have rules, and none writes to a tensor or has a graph of its own: then torch need not trace it again."""
    nodes = exported.graph.nodes
    writing = any(isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable for node in nodes)
    return not writing and not unknown(exported, known) and not any(node.op == "get_attr" for node in nodes)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """How torch writes ops out in terms of others. Most of what it calls basic stays, for its own terms would be no simpler."""
    everything = torch._decomp.decomposition_table
    basic = {op: how for op, how in everything.items() if op.name().split("::")[-1].split(".")[0] in WRITTEN_OUT}
    return {**basic, **torch._decomp.core_aten_decompositions(), **torch.export.default_decompositions()}


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warnings about its own use of itself, and without its logs of what is reported as an error anyway.

    Where a guard fails, torch prints the whole graph on stderr.
    """
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore", FutureWarning)
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)
