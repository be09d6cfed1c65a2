"""The rows of a projection in the order that interleaved rotation wants."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.peers.llama_cpp import interleaved


def rotate_halves(x, angle):
    first, second = np.split(x, 2)
    return np.concatenate([first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)])


def rotate_pairs(x, angle):
    first, second = x[0::2], x[1::2]
    return np.stack([first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], 1).ravel()


@given(heads=st.integers(1, 4), half=st.integers(1, 6), seed=st.integers(0, 99))
def test_scores_are_the_same_with_either_rotation(heads, half, seed):
    random = np.random.default_rng(seed)
    query, key = random.normal(size=(2, heads * 2 * half, 5))
    x, angles = random.normal(size=5), random.normal(size=(2, half))
    for head in range(heads):
        rows = slice(head * 2 * half, (head + 1) * 2 * half)
        before = [rotate_halves(weight[rows] @ x, angle) for weight, angle in zip((query, key), angles, strict=True)]
        turned = [interleaved(weight, heads)[rows] @ x for weight in (query, key)]
        after = [rotate_pairs(row, angle) for row, angle in zip(turned, angles, strict=True)]
        np.testing.assert_allclose(before[0] @ before[1], after[0] @ after[1])
