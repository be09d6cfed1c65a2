"""Guesses from n-grams, beside a search through the whole sequence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.runtime.prompt_lookup import LONGEST_MATCH, LONGEST_NGRAM, Guess, NgramIndex

TOKENS = st.lists(st.integers(0, 3), max_size=40)


def searched(tokens, most):
    """The guess by its definition."""
    for n in range(LONGEST_NGRAM, 0, -1):
        for start in range(len(tokens) - 1, n - 1, -1):
            if tokens[start - n : start] == tokens[len(tokens) - n :]:
                text, end = list(tokens), len(tokens)
                for i in range(most):
                    text.append(text[start + i])
                lengths = range(min(LONGEST_MATCH, start) + 1)
                return Guess(text[end:], max(k for k in lengths if tokens[start - k : start] == tokens[end - k :]))
    return None


@given(TOKENS, TOKENS, st.integers(1, 12))
def test_guess_is_that_of_a_search_after_every_token(prompt, text, most):
    index = NgramIndex(prompt)
    assert index.guess(most) == searched(prompt, most)
    for i, token in enumerate(text, 1):
        index.push(token)
        assert index.guess(most) == searched([*prompt, *text[:i]], most)


@pytest.mark.parametrize(
    ("tokens", "guess"),
    [
        ([], None),
        ([1], None),
        ([1, 2, 3], None),
        ([1, 2, 9, 1, 3, 1, 2], Guess([9, 1, 3, 1], 2)),
        ([7, 1, 5, 7, 1, 6, 8, 1], Guess([6, 8, 1, 6], 1)),
        ([4, 4], Guess([4, 4, 4, 4], 1)),
        ([1, 2] * 6, Guess([1, 2, 1, 2], 8)),
    ],
)
def test_guess_follows_the_longest_ngram_where_it_came_last(tokens, guess):
    assert NgramIndex(tokens).guess(4) == guess
