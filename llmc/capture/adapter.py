"""Models of the `transformers` library: attentions and products with chosen experts are one op each, by its interfaces."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmc.capture.axes import Builder
from llmc.capture.rules.attention import attend
from llmc.capture.rules.experts import expert_product
from llmc.capture.values import Refusal, Scores
from llmc.errors import CaptureError
from llmc.ir.score import FALSE, SCORE, TRUE, K, Q, ScoreExpr, apply, const

NAME = "llmc"
KNOWN = ("dropout", "scaling", "softcap", "s_aux", "sliding_window", "is_causal", "use_cache", "position_ids",
         "cache_position", "output_attentions", "output_hidden_states", "output_router_logits", "return_dict",
         "deterministic")  # fmt: skip
"""Keywords of the attention interface that are understood or change no number: a window is part of the mask."""

WITHOUT_MASK = "so call the model without one, or with `torch.ones_like(input_ids)`"

MINUS_INFINITY = const(-float("inf"))


class Traced:
    """Stands for an index of the mask function; what is done to it becomes a score expression."""

    device = None

    def __init__(self, expr: ScoreExpr) -> None:
        self.expr = expr

    def new_ones(self, size: Any, dtype: Any = None) -> Traced:
        return Traced(TRUE)

    def new_zeros(self, size: Any, dtype: Any = None) -> Traced:
        return Traced(FALSE)

    def to(self, *args: Any, **kwargs: Any) -> Traced:
        return self

    def __abs__(self) -> Traced:
        return Traced(apply("abs", self.expr))

    def __bool__(self) -> bool:
        raise TypeError("the mask depends on the positions in a way that is no expression")

    __hash__ = None  # type: ignore[assignment]


def _operator(kind: str, swapped: bool = False) -> Callable[[Traced, Any], Traced]:
    def operate(self: Traced, other: Any) -> Traced:
        if not isinstance(other, Traced | int | float | bool):
            return NotImplemented
        operand = other.expr if isinstance(other, Traced) else const(other)
        return Traced(apply(kind, *((operand, self.expr) if swapped else (self.expr, operand))))

    return operate


for _name, _kind in {
    "add": "add", "sub": "sub", "mul": "mul", "and": "logical_and", "or": "logical_or", "le": "le", "lt": "lt", "ge": "ge",
    "gt": "gt", "eq": "eq", "ne": "ne",
}.items():  # fmt: skip
    setattr(Traced, f"__{_name}__", _operator(_kind))
    if _name in ("add", "sub", "mul", "and", "or"):
        setattr(Traced, f"__r{_name}__", _operator(_kind, swapped=True))


@dataclass(frozen=True)
class Mask:
    """Which keys an attention admits; travels through the model in place of a mask tensor.

    padding: bool `[1, S]` that somebody gave the model, which must be proved to be all ones; None if nobody did.
    """

    admits: ScoreExpr
    padding: Tensor | None = None


def mask_interface(*args: Any, mask_function: Callable[..., Any], attention_mask: Any = None, **ignored: Any) -> Mask:
    """The library's mask function as an expression, and beside it the mask of padding that the model was given."""
    try:
        traced = mask_function(Traced(const(0)), Traced(const(0)), Traced(Q), Traced(K))
    except Exception as error:
        raise CaptureError(f"the attention mask of the model is no expression of positions: {error}") from error
    return Mask(traced.expr if isinstance(traced, Traced) else const(bool(traced)), attention_mask)


_calls: ContextVar[list[tuple[ScoreExpr, ScoreExpr]]] = ContextVar("calls")
_library = torch.library.Library(NAME, "DEF")
_library.define("attention(Tensor q, Tensor k, Tensor v, Tensor? sinks, Tensor? padding, float scale, int call) -> Tensor")
_library.define("expert_linear(Tensor x, Tensor chosen, Tensor weight, Tensor? bias, bool transposed) -> Tensor")


def _empty(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, padding: Tensor | None, scale: float, call: int
) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[1], q.shape[2], v.shape[3])


def _empty_product(x: Tensor, chosen: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    return x.new_empty(*chosen.shape, weight.shape[2 if transposed else 1])


_library.impl("attention", _empty, "CompositeExplicitAutograd")
_library.impl("expert_linear", _empty_product, "CompositeExplicitAutograd")


def attention_interface(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """One opaque op for the attention of a layer: query `[1, H, S, D]`, key and value `[1, G, S, D]`."""
    unknown = [name for name, given in kwargs.items() if name not in KNOWN and given is not None]
    if unknown or kwargs.get("dropout") or not isinstance(attention_mask, Mask):
        what = f"the keyword {', '.join(unknown)}" if unknown else "dropout" if kwargs.get("dropout") else "no mask"
        raise CaptureError(f"attention of {type(module).__name__} with {what}: capture does not know what it means")
    scaling = kwargs.get("scaling")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    score = SCORE
    if kwargs.get("softcap"):
        cap = const(float(kwargs["softcap"]))
        score = apply("mul", apply("tanh", apply("div", SCORE, cap)), cap)
    calls = _calls.get()
    calls.append((score, attention_mask.admits))
    sinks, padding = kwargs.get("s_aux"), attention_mask.padding
    out = torch.ops.llmc.attention(query, key, value, sinks, padding, scale, len(calls) - 1)
    return out.transpose(1, 2).contiguous(), None


def experts_interface(module: nn.Module, states: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
    """The experts of a layer: states `[S, D]`, chosen int64 `[S, k]`, shares `[S, k]`; each product is one opaque op.

    The module says how its weights lie (`is_transposed`, `has_bias`, `has_gate`) and what its gate computes.
    """
    if getattr(module, "has_post_expert_norm", False):
        raise CaptureError(f"experts of {type(module).__name__} with a norm of their own: capture does not know what it means")

    def product(x: Tensor, name: str) -> Tensor:
        bias = getattr(module, f"{name}_bias") if module.has_bias else None
        return torch.ops.llmc.expert_linear(x, chosen, getattr(module, name), bias, module.is_transposed)

    if module.has_gate:
        inner = module._apply_gate(product(states, "gate_up_proj"))  # type: ignore[operator]
    else:
        inner = module.act_fn(product(states, "up_proj"))  # type: ignore[operator]
    return (product(inner, "down_proj") * shares[..., None]).sum(1)


def with_cache(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a model of the library, and if it takes a cache and was given none, one that is empty and stays so.

    With a cache at hand the library does not look for sequences packed into one row, which it cannot do while tracing.
    """
    from transformers import DynamicCache

    class EmptyCache(DynamicCache):
        def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            return keys, values

        def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
            return 0

        def get_query_offset(self, *args: Any, **kwargs: Any) -> int:
            return 0

        def get_mask_sizes(self, query_length: Any, *args: Any, **kwargs: Any) -> tuple[Any, int]:
            return query_length, 0

    names = list(inspect.signature(module.forward).parameters)
    given_by_name = {**dict(zip(names, args, strict=False)), **given}
    if given_by_name.get("past_key_values") is not None:
        return args, given
    empty = {"past_key_values": EmptyCache(), "use_cache": False}
    changed = tuple(empty.pop(name, arg) for name, arg in zip(names, args, strict=False))
    return (*changed, *args[len(changed) :]), {**given, **empty}


@contextmanager
def adapted(module: nn.Module) -> Iterator[dict[str, Callable[..., Any]]]:
    """While active, attention and experts of the model are ops, and caches are empty; gives the rules for those ops.

    The model is left as it was found.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.moe import ExpertsInterface

    AttentionInterface.register(NAME, attention_interface)
    AttentionMaskInterface.register(NAME, mask_interface)
    ExpertsInterface.register(NAME, experts_interface)
    calls: list[tuple[ScoreExpr, ScoreExpr]] = []
    before = module.config._attn_implementation  # type: ignore[union-attr]
    supported = getattr(module, "_supports_attention_backend", False)
    experts_before = module.get_experts_implementation()  # type: ignore[operator]

    def rule(b: Builder, q: Any, k: Any, v: Any, sinks: Any, padding: Any, scale: float, call: int) -> Any:
        if padding is not None and not _all_ones(padding):
            raise Refusal(f"its attention mask is not proved to be all ones; batches have no padding, {WITHOUT_MASK}")
        score, admits = calls[call]
        scaled = _replace_score(score, apply("mul", SCORE, const(scale)))
        expr = scaled if admits == TRUE else apply("where", admits, scaled, MINUS_INFINITY)
        return attend(b, q, k, v, expr, sinks=sinks)

    takes_cache = [
        m for m in module.modules() if hasattr(m, "config") and "past_key_values" in inspect.signature(m.forward).parameters
    ]
    with ExitStack() as undo:  # whatever fails, all that was changed before it is changed back
        undo.callback(_calls.reset, _calls.set(calls))
        for part in takes_cache:
            undo.callback(part.register_forward_pre_hook(with_cache, with_kwargs=True).remove)
        if supported:
            undo.callback(module.set_attn_implementation, before)  # type: ignore[arg-type]
            module.set_attn_implementation(NAME)  # type: ignore[operator]
        undo.callback(module.set_experts_implementation, experts_before)  # type: ignore[arg-type]
        module.set_experts_implementation(NAME)  # type: ignore[operator]
        yield {f"{NAME}::attention": rule, f"{NAME}::expert_linear": expert_product}


def _all_ones(mask: Any) -> bool:
    """Whether a mask `[1, S]` is one number at all positions, and that is not 0."""
    return isinstance(mask, Scores) and mask.source is None and mask.expr.kind == "const" and bool(mask.expr.value)


def _replace_score(expr: ScoreExpr, by: ScoreExpr) -> ScoreExpr:
    if expr == SCORE:
        return by
    return ScoreExpr(expr.kind, tuple(_replace_score(arg, by) for arg in expr.args), expr.value)
