"""What each aten op means for labels, values and the program: one function an op, found by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmc.capture.axes import Builder

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}
"""By name of the op without its overload: `aten::add`. A rule takes the builder and the op's arguments."""


MIXERS = (
    "cumsum", "cumprod", "convolution", "conv1d", "roll", "flip", "sort", "pad", "constant_pad_nd", "fft_fft",
    "gru", "lstm", "rnn_tanh", "unfold", "avg_pool1d", "max_pool1d", "logcumsumexp", "diff", "slice_scatter", "index_put",
)  # fmt: skip
"""Ops known to relate elements along a dimension. They are not written out in terms of others, so that a refusal names them."""


IGNORED = (
    "_assert_tensor_metadata", "_assert_async", "_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size",
)  # fmt: skip
"""Checks while it runs, of what is checked here while it is captured."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ops of these names, in the namespace `aten` unless one is given."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name if "::" in name else f"aten::{name}"] = function
        return function

    return register


def load_rules() -> dict[str, Rule]:
    """All rules."""
    from llmc.capture.rules import attention, contractions, creation, experts, pointwise, reductions, selection, views

    assert all((attention, contractions, creation, experts, pointwise, reductions, selection, views))
    return RULES


__all__ = ["IGNORED", "MIXERS", "RULES", "Builder", "Rule", "load_rules", "rule"]
