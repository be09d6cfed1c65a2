"""Score expressions: their values, and what is proven of the keys they admit."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.ir import ops
from llmc.ir.module import SequenceContext
from llmc.ir.score import (
    CAUSAL,
    FALSE,
    SCORE,
    TRUE,
    K,
    Q,
    ScoreContext,
    apply,
    const,
    distances,
    implies_causal,
    per_head,
    window,
)

DISTANCE = apply("sub", Q, K)
EARLIER = apply("sub", K, Q)
FORMS = {
    "bias": (apply("add", SCORE, apply("mul", const(0.5), EARLIER)), lambda s, h, d: s - 0.5 * d),
    "divided": (apply("sub", SCORE, apply("div", DISTANCE, const(3.0))), lambda s, h, d: s - d / 3.0),
    "divided-by-whole": (apply("sub", SCORE, apply("div", DISTANCE, const(3))), lambda s, h, d: s - d / 3),
    "slopes": (
        apply("add", SCORE, apply("mul", per_head([0.5, 0.25]), EARLIER)),
        lambda s, h, d: s - torch.tensor([0.5, 0.25], dtype=s.dtype)[h] * d,
    ),
    "numbers-only": (
        apply("where", apply("gt", DISTANCE, const(2)), const(-1.0), const(0.0)),
        lambda s, h, d: torch.where(d > 2, -1.0, 0.0).to(s.dtype),
    ),
    "clipped": (apply("maximum", SCORE, const(-1)), lambda s, h, d: s.clamp(min=-1)),
    "positions-only": (EARLIER, lambda s, h, d: -d.to(s.dtype)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", FORMS)
def test_attention_takes_any_form_of_score_in_the_precision_of_its_operands(name, dtype):
    expr, formula = FORMS[name]
    torch.manual_seed(0)
    q, k, v = (torch.randn(6, 2, 4, dtype=dtype) for _ in range(3))
    position = torch.arange(6)
    found = ops.attention(q, k, v, scale=0.5, score=expr, admits=CAUSAL, context=SequenceContext(position, position))
    raw = torch.einsum("thd,shd->hts", q, k) * 0.5
    distance, head = position[:, None] - position, torch.arange(2).view(2, 1, 1)
    scores = formula(raw, head, distance.expand(2, 6, 6)).masked_fill(distance < 0, -math.inf)
    expected = torch.einsum("hts,shd->thd", scores.softmax(-1), v)
    assert found.dtype == dtype and torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (apply("lt", DISTANCE, const(4)), 4),
        (apply("le", DISTANCE, const(4)), 5),
        (apply("lt", DISTANCE, const(3.5)), 4),
        (apply("le", DISTANCE, const(3.5)), 4),
        (apply("gt", K, apply("sub", Q, const(3.5))), 4),
        (apply("ge", K, apply("sub", Q, const(4.0))), 5),
        (apply("eq", DISTANCE, const(2)), 3),
        (apply("lt", DISTANCE, const(math.inf)), None),
        (TRUE, None),
        (FALSE, 1),
    ],
    ids=str,
)
def test_window_is_the_number_of_keys_that_can_be_admitted(condition, expected):
    assert window(apply("logical_and", CAUSAL, condition)) == expected


@pytest.mark.parametrize(
    ("kind", "value", "always"), [("ge", 0, True), ("gt", 0, False), ("gt", -0.5, True), ("ge", 0.5, False)]
)
def test_what_every_position_is_says_nothing(kind, value, always):
    """As the masks of encoders do."""
    assert all((apply(kind, position, const(value)) == TRUE) is always for position in (Q, K))


def test_equality_with_a_fraction_admits_nothing():
    low, high = distances(apply("eq", DISTANCE, const(2.5)))
    assert low > high and implies_causal(apply("eq", EARLIER, const(2.5)))


NUMBERS = st.one_of(st.integers(-6, 6), st.sampled_from([-3.5, -1.0, -0.1, 0.1, 0.3, 0.5, 0.9, 2.0, 3.5, 4.0]))
TERMS = st.recursive(
    st.one_of(st.just(Q), st.just(K), NUMBERS.map(const)),
    lambda inner: st.one_of(
        st.builds(apply, st.sampled_from(["add", "sub"]), inner, inner), st.builds(apply, st.just("neg"), inner)
    ),
    max_leaves=4,
)
BESIDE = st.builds(lambda a, b: apply("sub", a, b), st.just(Q), st.just(K)) | TERMS
COMPARED = st.builds(apply, st.sampled_from(["lt", "le", "gt", "ge", "eq", "ne"]), BESIDE, TERMS)
CONDITIONS = st.recursive(
    COMPARED | st.sampled_from([TRUE, FALSE, CAUSAL]),
    lambda inner: st.one_of(
        st.builds(apply, st.sampled_from(["logical_and", "logical_or"]), inner, inner),
        st.builds(apply, st.just("logical_not"), inner),
    ),
    max_leaves=5,
)


@settings(deadline=None, max_examples=400)
@given(CONDITIONS, st.sampled_from([0, 1000, 1_000_000]))
def test_bounds_hold_every_pair_that_is_admitted(condition, start):
    positions = torch.arange(start, start + 14)
    context = ScoreContext(None, torch.zeros(1, 1, 1, dtype=torch.int64), positions.view(1, -1, 1), positions.view(1, 1, -1))
    admitted = condition.evaluate(context).expand(1, 14, 14)[0]
    found = (positions[:, None] - positions)[admitted]
    low, high = distances(condition)
    assert torch.all((found >= low) & (found <= high))
    assert not implies_causal(condition) or torch.all(found >= 0)
    assert window(condition) is None or torch.all(found < window(condition))
