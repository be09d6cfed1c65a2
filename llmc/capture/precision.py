"""Modules whose parameters are in half precision, computed with in float32 and never copied as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

HALF = (torch.float16, torch.bfloat16)


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
    """While active, ops that are given a parameter in half precision compute with a float32 copy, which is dropped after."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.half = {id(parameter) for parameter in module.parameters() if parameter.dtype in HALF}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "__get__":  # an attribute: its dtype, its shape, but its transpose too
            seen = func(*args, **kwargs)
            if not isinstance(seen, Tensor):
                return torch.float32 if isinstance(seen, torch.dtype) and id(args[0]) in self.half else seen
        wide = pytree.tree_map_only(Tensor, lambda t: t.float() if id(t) in self.half else t, (args, kwargs))
        return func(*wide[0], **wide[1])
