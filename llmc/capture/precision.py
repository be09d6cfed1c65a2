"""Modules whose parameters are in half precision, computed with in float32 and never copied as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

HALF = (torch.float16, torch.bfloat16)

BLOCK_ELEMENTS = 1 << 20
"""Of the weight of a linear layer, as many are in float32 at a time: 4 MB, always the same ones, since of memory that is freed
between small pieces the process keeps most."""


@contextmanager
def hollow(module: nn.Module) -> Iterator[None]:
    """While active, parameters in half precision are float32, of memory that nobody has touched: enough to trace the module."""
    before = [(part, dict(part._parameters)) for part in module.modules()]
    made: dict[int, nn.Parameter] = {}
    for part, parameters in before:
        for name, given in parameters.items():
            if given is not None and given.dtype in HALF:
                if id(given) not in made:
                    made[id(given)] = nn.Parameter(torch.empty_like(given, dtype=torch.float32), requires_grad=False)
                part._parameters[name] = made[id(given)]
    try:
        yield
    finally:
        for part, parameters in before:
            part._parameters.update(parameters)


class InFloat32(TorchFunctionMode):
    """While active, ops that are given one of these tensors that is in half precision compute with it in float32.

    Of a table the rows that are looked up are widened, and the weight of a linear layer a block of rows after the other; any
    other tensor is copied as a whole, for as long as the op runs.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.half = {id(tensor): tensor for tensor in tensors if tensor.dtype in HALF}  # kept, so that no other has its id
        self.scratch = torch.empty(0, dtype=torch.float32)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "__get__":  # an attribute: its dtype, its shape, but its transpose too
            seen = func(*args, **kwargs)
            if not isinstance(seen, Tensor):
                return torch.float32 if isinstance(seen, torch.dtype) and id(args[0]) in self.half else seen
        if len(args) > 1 and id(args[1]) in self.half:
            if func is F.linear and args[1].ndim == 2:
                return self.linear(self.widened(args[0]), args[1], *self.widened(args[2:]), **self.widened(kwargs))
            if func is F.embedding and len(args) == 2 and kwargs.get("max_norm") is None:
                return func(*args, **kwargs).float()
        return func(*self.widened(args), **self.widened(kwargs))

    def widened(self, given: Any) -> Any:
        """The same with copies in float32 of those tensors in it."""
        return pytree.tree_map_only(Tensor, lambda t: t.float() if id(t) in self.half else t, given)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`x @ weight.T + bias`: x `[..., K]` and bias `[N]` in float32, weight `[N, K]` in half precision."""
        outputs, columns = weight.shape
        rows = max(BLOCK_ELEMENTS // max(columns, 1), 1)
        if self.scratch.numel() < rows * columns or self.scratch.device != weight.device:
            self.scratch = torch.empty(rows * columns, dtype=torch.float32, device=weight.device)
        found = x.new_empty(*x.shape[:-1], outputs)
        for start in range(0, outputs, rows):
            block = weight[start : start + rows]
            wide = self.scratch[: block.numel()].view(block.shape).copy_(block)
            found[..., start : start + rows] = F.linear(x, wide)
        return found if bias is None else found + bias
