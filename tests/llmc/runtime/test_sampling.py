"""Choosing a token."""

import math

import numpy as np
import pytest

from llmc.errors import InputError
from llmc.runtime.sampling import SamplingOptions, sample

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15], dtype=np.float32))
DRAWS = 20_000


def frequencies(options: SamplingOptions) -> np.ndarray:
    rng = np.random.default_rng(options.seed)
    draws = [sample(LOGITS, options, rng) for _ in range(DRAWS)]
    return np.bincount(draws, minlength=len(LOGITS)) / DRAWS


def assert_close(found: np.ndarray, expected: list[float]) -> None:
    """Within five standard deviations, and never where the probability is zero."""
    wanted = np.array(expected) / np.sum(expected)
    assert np.all(np.abs(found - wanted) <= 5 * np.sqrt(wanted * (1 - wanted) / DRAWS))


def test_greedy_takes_the_most_likely_and_the_lower_of_equals():
    options, rng = SamplingOptions(), np.random.default_rng(0)
    assert sample(LOGITS, options, rng) == 1
    assert sample(np.array([1, 3, 3, 2], dtype=np.float32), options, rng) == 1


def test_samples_follow_the_softmax():
    assert_close(frequencies(SamplingOptions(temperature=1.0)), [0.1, 0.4, 0.05, 0.3, 0.15])


def test_temperature_sharpens():
    assert_close(frequencies(SamplingOptions(temperature=0.5)), [0.1**2, 0.4**2, 0.05**2, 0.3**2, 0.15**2])


def test_top_k_keeps_the_most_likely():
    assert_close(frequencies(SamplingOptions(temperature=1.0, top_k=2)), [0, 0.4, 0, 0.3, 0])


def test_top_k_prefers_lower_ids_among_equals():
    options, rng = SamplingOptions(temperature=1.0, top_k=3), np.random.default_rng(0)
    draws = {sample(np.array([0, 1, 0, 1, 0], dtype=np.float32), options, rng) for _ in range(300)}
    assert draws == {0, 1, 3}


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(0.39, [0, 1, 0, 0, 0]), (0.6, [0, 4, 0, 3, 0]), (0.8, [0, 0.4, 0, 0.3, 0.15]), (0.94, [0.1, 0.4, 0, 0.3, 0.15])],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, expected):
    assert_close(frequencies(SamplingOptions(temperature=1.0, top_p=top_p)), expected)


def test_top_p_is_measured_within_top_k():
    assert_close(frequencies(SamplingOptions(temperature=1.0, top_k=2, top_p=0.57)), [0, 1, 0, 0, 0])


def test_top_k_beyond_the_vocabulary_is_off():
    assert_close(frequencies(SamplingOptions(temperature=1.0, top_k=99)), [0.1, 0.4, 0.05, 0.3, 0.15])


def test_tiny_temperature_is_greedy():
    assert sample(LOGITS, SamplingOptions(temperature=1e-320), np.random.default_rng(0)) == 1


def test_same_seed_gives_same_tokens_and_another_seed_others():
    def draw(seed):
        rng = np.random.default_rng(seed)
        return [sample(LOGITS, SamplingOptions(temperature=1.0), rng) for _ in range(50)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("temperature", value) for value in (-0.1, math.nan, math.inf, "1", True)],
        *[("top_k", value) for value in (-1, 1.5, True)],
        *[("top_p", value) for value in (0, -0.1, 1.01, math.nan, None)],
        *[("seed", value) for value in (-1, 0.5)],
    ],
)
def test_option_that_cannot_be_used_is_named(name, value):
    with pytest.raises(InputError, match=name):
        SamplingOptions(**{name: value})


@pytest.mark.parametrize("bad", [[0, math.nan], [0, math.inf], [math.inf, -math.inf], [math.nan, -math.inf], [-math.inf] * 2])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_without_a_largest_number_are_refused(bad, temperature):
    with pytest.raises(InputError, match="NaN or"):
        sample(np.array(bad, dtype=np.float32), SamplingOptions(temperature=temperature), np.random.default_rng(0))


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.9}, {"top_k": 4, "top_p": 0.99}, {"temperature": 1e-320}])
def test_token_of_minus_infinity_is_never_chosen(options):
    logits = np.array([-math.inf, 0, -math.inf, 0.1, -math.inf], dtype=np.float32)
    rng = np.random.default_rng(0)
    draws = {sample(logits, SamplingOptions(**{"temperature": 1.0, **options}), rng) for _ in range(300)}
    assert draws == ({3} if "temperature" in options else {1, 3})
    assert sample(logits, SamplingOptions(), rng) == 3
